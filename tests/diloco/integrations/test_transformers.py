"""The Trainer of transformers in a swarm: it trains as DiLoCo's paper has it, and leaves what all have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import diloco
from diloco.integrations.run_length import least_steps, run_steps
from tests.diloco.integrations.kit import LENGTH, LOOPBACK, VOCABULARY, sentences, settings, two_workers

pytest.importorskip("transformers", reason="pip install 'diloco[hf]'")
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from diloco.integrations.transformers import DilocoCallback

BATCH, RATE = 4, 3e-3


def tiny(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
        )
    )


def trainer_of(
    swarm: diloco.Swarm, folder: Path, *, model: nn.Module | None = None, data: Any = None, **given: Any
) -> tuple[Trainer, DilocoCallback]:
    """As a person would write it: all machines with the same seeds."""
    callback = DilocoCallback(swarm, timeout_s=30.0)
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        "max_steps": run_steps(swarm),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 42,
        **given,
    }
    trainer = Trainer(
        model=tiny() if model is None else model,
        args=TrainingArguments(**arguments),
        train_dataset=sentences() if data is None else data,
        eval_dataset=sentences(8),
        callbacks=[callback],
    )
    return trainer, callback


def losses(trainer: Trainer) -> list[float]:
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


def outer_values(callback: DilocoCallback) -> Tensor:
    assert callback.outer is not None
    return callback.outer.replica.outer.outer_parameters(0).clone()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in model.parameters()])


def solo(rounds: int = 2, every: int = 4) -> Any:
    return diloco.solo(settings(rounds, every))


class Recorded:
    """A model's batches, as it was given them to train on."""

    def __init__(self, model: nn.Module) -> None:
        self.batches: list[Tensor] = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if model.training:
            self.batches.append(kwargs["input_ids"].clone())


def of_the_paper(start: Tensor, rounds: int, every: int, batches: list[list[Tensor]], horizon: int) -> Tensor:
    """DiLoCo (arXiv 2311.08105, algorithm 1): AdamW within, Nesterov on the mean of what they moved."""
    shared = tiny()
    nn.utils.vector_to_parameters(start, shared.parameters())
    workers = [tiny() for _ in batches]
    optimizers = [torch.optim.AdamW(each.parameters(), lr=RATE, weight_decay=0.0) for each in workers]
    method = settings().method.resolved()
    outer = torch.optim.SGD(
        shared.parameters(), lr=method.outer_lr, momentum=method.outer_momentum, nesterov=True
    )
    for round_ in range(rounds):
        for worker, optimizer, drawn in zip(workers, optimizers, batches, strict=True):
            worker.load_state_dict(shared.state_dict())
            for step in range(round_ * every, (round_ + 1) * every):
                optimizer.param_groups[0]["lr"] = RATE * (1 - step / horizon)
                optimizer.zero_grad()
                worker(input_ids=drawn[step], labels=drawn[step]).loss.backward()
                nn.utils.clip_grad_norm_(worker.parameters(), 1.0)
                optimizer.step()
        for each, *theirs in zip(shared.parameters(), *(w.parameters() for w in workers), strict=True):
            each.grad = each.detach() - torch.stack([t.detach() for t in theirs]).mean(dim=0)
        outer.step()
    return flat(shared)


def test_two_trainers_train_as_the_paper_has_it_and_save_the_same_model(tmp_path: Path) -> None:
    run = settings(rounds=3, every=4)

    def worker(swarm: diloco.Swarm, folder: Path) -> tuple[Any, ...]:
        model = tiny(seed=0 if swarm.is_host else 1)
        seen = Recorded(model)
        trainer, callback = trainer_of(swarm, folder, model=model)
        begun: list[Tensor] = []
        trainer.add_callback(At(1, lambda: begun.append(outer_values(callback))))
        trainer.train()
        trainer.save_model(str(folder / "model"))
        return trainer, callback, seen.batches, begun[0]

    first, second = two_workers(tmp_path, run, worker)
    batches = [first[2][:12], second[2][:12]]
    assert not all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
    assert first[1].outer.finished
    assert torch.equal(first[3], second[3])
    expected = of_the_paper(first[3], 3, 4, batches, horizon=20)
    for trainer, callback, *_ in (first, second):
        assert trainer.state.global_step == callback.outer.step
        assert callback.outer.tokens == callback.outer.step * BATCH * LENGTH
        assert torch.allclose(flat(trainer.model), expected, atol=1e-6)
        assert losses(trainer)[-1] < losses(trainer)[0]
    files = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("a", "b")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    again = LlamaForCausalLM.from_pretrained(tmp_path / "b" / "model")
    assert torch.equal(flat(again), flat(first[0].model))


def test_the_same_script_draws_another_order_in_each_swarm_and_for_each_worker(tmp_path: Path) -> None:
    """One after the other, as in two processes: the Trainer seeds all that is drawn by when it is made."""

    def drawn() -> tuple[list[Tensor], int]:
        with solo(rounds=1, every=3) as swarm:
            trainer, _ = trainer_of(swarm, tmp_path)
            seen = Recorded(trainer.model)
            trainer.train()
            return seen.batches[:3], swarm.data_seed

    (first, seed), (second, other) = drawn(), drawn()
    assert seed != other
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Rates(TrainerCallback):
    """The learning rate by the step of the swarm."""

    def __init__(self, callback: DilocoCallback) -> None:
        self.seen: dict[int, float] = {}
        self._callback = callback

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        assert self._callback.outer is not None
        self.seen[self._callback.outer.swarm_step] = more["lr_scheduler"].get_last_lr()[0]


class At(TrainerCallback):
    """Does something after one step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self._step, self._act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == self._step:
            self._act()


def test_who_joins_late_learns_at_the_rate_of_the_others(tmp_path: Path) -> None:
    lates: list[Future[Rates]] = []

    def prepared(swarm: diloco.Swarm, name: str) -> tuple[Trainer, Rates]:
        trainer, callback = trainer_of(
            swarm, tmp_path / name, warmup_steps=3, lr_scheduler_type="cosine", max_steps=26
        )
        trainer.add_callback(rates := Rates(callback))
        return trainer, rates

    def joined() -> Rates:
        with diloco.join(host.ticket, name="b", listen=LOOPBACK) as swarm:
            trainer, rates = prepared(swarm, "b")
            trainer.train()
            return rates

    def both_are_there() -> None:
        lates.append(pool.submit(joined))
        while sum(each["active"] for each in host.status()["members"]) < 2 and not lates[0].done():
            pass

    run = settings(rounds=6, every=4, min_peers=1)
    with diloco.host(run, listen=LOOPBACK, state=tmp_path / "host") as host, ThreadPoolExecutor(1) as pool:
        trainer, first = prepared(host, "a")
        trainer.add_callback(At(8, both_are_there))
        trainer.train()
        late = lates[0].result(60)
    both = first.seen.keys() & late.seen.keys()
    assert len(both) >= 12
    assert min(late.seen) == 9
    assert {at: late.seen[at] for at in both} == pytest.approx({at: first.seen[at] for at in both})


def test_a_step_is_an_update_however_many_batches_it_accumulates_and_padding_is_no_token(
    tmp_path: Path,
) -> None:
    rows = [
        {"input_ids": each["input_ids"], "labels": each["labels"], "attention_mask": torch.ones(LENGTH)}
        for each in sentences()
    ]
    for each in rows:
        each["attention_mask"][5:] = 0
    with solo(rounds=2, every=4) as swarm:
        given = {"gradient_accumulation_steps": 3, "include_num_input_tokens_seen": "non_padding"}
        trainer, callback = trainer_of(swarm, tmp_path, data=rows, **given)
        seen = Recorded(trainer.model)
        trainer.train()
        assert callback.outer is not None
        assert callback.outer.finished
        assert callback.outer.step == trainer.state.global_step
        assert callback.outer.tokens == sum(len(each) for each in seen.batches) * 5
    assert 3 * callback.outer.step - len(seen.batches) in (0, 1, 2)  # the last one of an epoch has fewer


class Numbers(IterableDataset[dict[str, Tensor]]):
    """A stream, whose length nobody knows."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield from sentences()


@pytest.mark.parametrize(
    "given",
    [
        {"num_train_epochs": 1, "max_steps": -1},
        {"max_steps": 5},
        {"max_steps": 5, "data": Numbers()},
    ],
    ids=["epoch", "steps", "stream"],
)
def test_a_trainer_that_ends_before_the_run_says_so_and_leaves_what_was_agreed_on(
    given: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = {"rounds": 50, "every": 3}
    with caplog.at_level(logging.WARNING, "diloco"), solo(**run) as swarm:
        trainer, callback = trainer_of(swarm, tmp_path, **given)
        trainer.train()
        assert torch.equal(flat(trainer.model), outer_values(callback))
        trainer.evaluate()
    told = [each.message for each in caplog.records]
    assert not any("own parameters" in each for each in told)
    steps = trainer.state.global_step
    assert any(f"the Trainer ends after {steps} steps and the run has 150 to go" in each for each in told)
    assert any(f"over after {steps}, and the run is not (round {steps // 3} of 50)" in each for each in told)


def test_the_run_ends_a_trainer_that_would_go_on(tmp_path: Path) -> None:
    with solo(rounds=2, every=3) as swarm:
        trainer, callback = trainer_of(swarm, tmp_path, max_steps=1000)
        trainer.train()
        assert callback.outer is not None
        assert callback.outer.finished
    assert trainer.state.global_step <= 7


class Looks(TrainerCallback):
    """What is in the model when the Trainer has evaluated, saved, and trains on."""

    def __init__(self) -> None:
        self.callback: DilocoCallback | None = None
        self.evaluated: list[bool] = []
        self.trained_on: list[bool] = []

    def _is_outer(self, model: nn.Module) -> bool:
        assert self.callback is not None
        return torch.equal(flat(model), outer_values(self.callback))

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.evaluated.append(self._is_outer(more["model"]))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step % 4:
            self.trained_on.append(self._is_outer(more["model"]))


def test_what_is_evaluated_and_saved_on_the_way_are_the_outer_parameters(tmp_path: Path) -> None:
    with solo(rounds=3, every=4) as swarm:
        looks = Looks()
        given = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
        trainer, looks.callback = trainer_of(swarm, tmp_path, **given)
        trainer.add_callback(looks)
        started = flat(trainer.model)
        trainer.train()
    assert looks.evaluated == [True] * len(looks.evaluated)
    assert len(looks.evaluated) >= 4
    assert looks.trained_on == [False] * len(looks.trained_on)
    saved = flat(LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-3"))
    assert torch.equal(saved, started)  # of the run no round was over
    assert torch.equal(
        flat(LlamaForCausalLM.from_pretrained(tmp_path / f"checkpoint-{trainer.state.global_step}")),
        flat(trainer.model),
    )


def test_the_best_model_is_what_is_left_where_it_was_asked_for(tmp_path: Path) -> None:
    def worst_at_first(prediction: Any) -> dict[str, float]:
        seen.append(0.0)
        return {"made_up": float(len(seen))}  # later is worse

    seen: list[float] = []
    with solo(rounds=3, every=4) as swarm:
        given = {
            "eval_strategy": "steps",
            "eval_steps": 4,
            "save_strategy": "steps",
            "save_steps": 4,
            "load_best_model_at_end": True,
            "metric_for_best_model": "made_up",
            "greater_is_better": False,
        }
        trainer, callback = trainer_of(swarm, tmp_path, **given)
        trainer.compute_metrics = worst_at_first
        trainer.train()
        assert not torch.equal(flat(trainer.model), outer_values(callback))
    best = LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    assert torch.equal(flat(trainer.model), flat(best))


def test_a_callback_that_saves_behind_ours_is_told_whose_parameters_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Saves(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            control.should_save = state.global_step == 2

    with caplog.at_level(logging.WARNING, "diloco"), solo(rounds=2, every=4) as swarm:
        trainer, _ = trainer_of(swarm, tmp_path)
        trainer.add_callback(Saves())
        trainer.train()
    assert "what was just saved are this worker's own parameters" in caplog.text


def test_a_trainer_that_is_started_again_goes_on_where_the_worker_was(tmp_path: Path) -> None:
    run = settings(rounds=4, every=4, min_peers=1)
    given = {"save_strategy": "steps", "save_steps": 6, "max_steps": 6}
    with diloco.host(run, listen=LOOPBACK, state=tmp_path / "host") as swarm:
        trainer, first = trainer_of(swarm, tmp_path / "out", **given)
        seed = swarm.data_seed
        trainer.train()
    with diloco.host(run, listen=LOOPBACK, state=tmp_path / "host") as swarm:
        assert swarm.data_seed == seed
        trainer, callback = trainer_of(swarm, tmp_path / "out", model=tiny(7), **given | {"max_steps": 18})
        rates = Rates(callback)
        trainer.add_callback(rates)
        trainer.train(resume_from_checkpoint=True)
        assert callback.outer is not None
        assert callback.outer.finished
        assert trainer.state.global_step == callback.outer.step
        assert min(rates.seen) == 7
        assert torch.equal(flat(trainer.model), outer_values(callback))
    assert first.outer is not None


def test_a_trainer_that_trains_again_in_the_same_swarm_goes_on_within_the_round(tmp_path: Path) -> None:
    left: list[Tensor] = []
    with solo(rounds=1, every=4) as swarm:
        model = tiny()
        trainer, first = trainer_of(swarm, tmp_path, model=model, max_steps=3)
        trainer.add_callback(At(3, lambda: left.append(flat(model))))
        trainer.train()
        assert torch.equal(flat(model), outer_values(first))
        trainer, callback = trainer_of(swarm, tmp_path, model=model, max_steps=1)
        begun = Recorded(model)
        model.register_forward_pre_hook(lambda *_: left.append(flat(model)))
        trainer.train()
        assert callback.outer is not None
        assert (callback.outer.finished, len(begun.batches)) == (True, 1)
        assert torch.equal(left[0], left[1])
        assert callback.outer.tokens_by_fate["applied"] == 4 * BATCH * LENGTH


def test_a_trainer_in_bfloat16_ends_with_the_outer_parameters(tmp_path: Path) -> None:
    with solo(rounds=2, every=3) as swarm:
        trainer, callback = trainer_of(swarm, tmp_path, bf16=True)
        trainer.train()
        assert callback.outer is not None
        assert callback.outer.finished
        assert torch.equal(flat(trainer.model), outer_values(callback))


def test_a_schedule_by_what_is_measured_is_left_alone_and_a_model_of_no_ids_counts_examples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.cross_entropy(self.layer(values), labels)}

    rows = [{"values": torch.ones(3) * at, "labels": at % 2} for at in range(32)]
    with caplog.at_level(logging.WARNING), solo(rounds=2, every=3) as swarm:
        given = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 50}
        trainer, callback = trainer_of(swarm, tmp_path, model=Classifier(), data=rows, **given)
        trainer.train()
        assert callback.outer is not None
        assert callback.outer.tokens == BATCH * callback.outer.step
    assert "ReduceLROnPlateau goes by what this worker measures" in caplog.text
    assert "main_input_name" not in caplog.text


def test_least_steps_are_those_of_the_rounds_and_a_trainer_is_given_two_rounds_more() -> None:
    with solo(rounds=7, every=5) as swarm:
        assert (least_steps(swarm.settings), run_steps(swarm)) == (35, 45)
