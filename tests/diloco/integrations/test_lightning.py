"""The Trainer of Lightning in a swarm: workers end with one model, and what it looks at is the outer one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import diloco
from diloco.integrations.run_length import run_steps
from tests.diloco.integrations.kit import settings, two_workers

pytest.importorskip("lightning", reason="pip install 'diloco[lightning]'")
import lightning.pytorch as pl
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint

from diloco.integrations.lightning import DilocoCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
ROWS, RATE = 64, 0.05


class Line(pl.LightningModule):
    """It learns that y = 3 x - 1."""

    def __init__(self, seed: int = 0, interval: str = "step") -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(1, 1)
        self.interval = interval
        self.drawn: list[Tensor] = []
        self.rates: list[float] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.drawn.append(batch.clone())
        return (self.layer(batch) - 3 * batch + 1).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(flat(self))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}

    def optimizer_step(self, *args: Any, **more: Any) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        super().optimizer_step(*args, **more)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in module.parameters()]).clone()


def fit(
    swarm: diloco.Swarm, module: Line, *callbacks: pl.Callback, validates: bool = False, **given: Any
) -> tuple[pl.Trainer, DilocoCallback]:
    """As a person would write it: all machines with the same seed."""
    callback = DilocoCallback(swarm, timeout_s=30.0)
    arguments = {"max_epochs": -1, "enable_checkpointing": bool(callbacks), **given}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, *callbacks],
        **arguments,
    )
    rows = torch.linspace(-1, 1, ROWS)[:, None]
    loader = DataLoader(rows, batch_size=8, shuffle=True)
    trainer.fit(module, loader, DataLoader(rows, batch_size=ROWS) if validates else None)
    return trainer, callback


def outer_values(callback: DilocoCallback) -> Tensor:
    assert callback.outer is not None
    return callback.outer.replica.outer.outer_parameters(0).clone()


def of_the_paper(start: Tensor, rounds: int, every: int, workers: list[list[Tensor]]) -> Tensor:
    """DiLoCo (arXiv 2311.08105, algorithm 1): AdamW within, Nesterov on the mean of what they moved."""
    method = settings().method.resolved()
    shared = start.clone().requires_grad_()
    outer = torch.optim.SGD([shared], lr=method.outer_lr, momentum=method.outer_momentum, nesterov=True)
    local = [start.clone().requires_grad_() for _ in workers]
    optimizers = [torch.optim.AdamW([each], lr=RATE, weight_decay=0.0) for each in local]
    for round_ in range(rounds):
        for values, optimizer, drawn in zip(local, optimizers, workers, strict=True):
            values.data.copy_(shared.data)
            for step in range(round_ * every, (round_ + 1) * every):
                optimizer.param_groups[0]["lr"] = RATE * (0.25 + 0.75 * min(step, 20) / 20)
                optimizer.zero_grad()
                (values[0] * drawn[step] + values[1] - 3 * drawn[step] + 1).square().mean().backward()
                optimizer.step()
        shared.grad = shared.data - torch.stack([each.data for each in local]).mean(dim=0)
        outer.step()
    return shared.detach()


def test_two_trainers_train_as_the_paper_has_it_and_end_with_the_same_model(tmp_path: Path) -> None:
    def worker(swarm: diloco.Swarm, folder: Path) -> tuple[Line, DilocoCallback]:
        module = Line(seed=0 if swarm.is_host else 1)
        return module, fit(swarm, module)[1]

    (first, callback), (second, other) = two_workers(tmp_path, settings(rounds=3, every=5), worker)
    assert torch.equal(flat(first), flat(second))
    assert torch.equal(flat(first), outer_values(callback))
    assert not torch.equal(torch.stack(first.drawn[:8]), torch.stack(second.drawn[:8]))
    assert sorted(torch.cat(first.drawn[:8]).flatten().tolist()) == torch.linspace(-1, 1, ROWS).tolist()
    assert callback.outer is not None
    assert callback.outer.tokens == 8 * callback.outer.step == 8 * len(first.drawn)
    expected = [
        of_the_paper(flat(Line(seed=seed)), 3, 5, [first.drawn, second.drawn]) for seed in (0, 1)
    ]  # whichever of them began the run
    assert any(torch.allclose(flat(first), each, atol=1e-6) for each in expected)
    assert other.outer is not None


def test_the_same_script_draws_another_order_in_each_swarm_and_for_each_worker() -> None:
    def drawn() -> list[Tensor]:
        with diloco.solo(settings(rounds=1, every=3)) as swarm:
            module = Line()
            pl.seed_everything(42, verbose=False)
            fit(swarm, module)
            return module.drawn[:3]

    assert not any(torch.equal(a, b) for a, b in zip(drawn(), drawn(), strict=True))


def test_who_has_trained_alone_for_a_while_is_joined_at_its_learning_rate(tmp_path: Path) -> None:
    run = settings(rounds=6, every=4, min_peers=1)
    with diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path) as host:
        first = Line()
        fit(host, first, max_steps=12)
        with diloco.join(host.ticket, name="late", listen="tcp://127.0.0.1:0") as swarm:
            late = Line(seed=1)
            fit(swarm, late, max_steps=1)
    assert late.rates == pytest.approx([RATE * (0.25 + 0.75 * 12 / 20)])


def test_a_second_fit_in_the_same_swarm_goes_on_within_the_round() -> None:
    with diloco.solo(settings(rounds=1, every=4)) as swarm:
        module, seen, ends = Line(), list[Tensor](), list[Tensor]()
        module.layer.register_forward_pre_hook(lambda *_: seen.append(flat(module)))
        after = LambdaCallback(on_train_batch_end=lambda *_: ends.append(flat(module)))
        fit(swarm, module, after, max_steps=3, enable_checkpointing=False)
        assert torch.equal(flat(module), seen[0])
        _, callback = fit(swarm, module, max_steps=1)
        assert torch.equal(seen[3], ends[2])
        assert callback.outer is not None
        assert (callback.outer.finished, callback.outer.tokens_by_fate["applied"]) == (True, 4 * 8)


def test_an_update_of_several_batches_is_one_step_with_the_tokens_of_all(tmp_path: Path) -> None:
    with diloco.solo(settings(rounds=2, every=4)) as swarm:
        module = Line()
        trainer, callback = fit(swarm, module, accumulate_grad_batches=2)
        assert callback.outer is not None
        assert callback.outer.finished
        assert callback.outer.step == trainer.global_step
        assert callback.outer.tokens == 16 * trainer.global_step


@pytest.mark.parametrize("weights_only", [False, True])
def test_what_is_validated_and_saved_are_the_outer_parameters(tmp_path: Path, weights_only: bool) -> None:
    saver = ModelCheckpoint(
        tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}", save_weights_only=weights_only
    )
    with diloco.solo(settings(rounds=3, every=4)) as swarm:
        module = Line()
        begun = flat(module)
        given = {"val_check_interval": 3, "check_val_every_n_epoch": None}
        fit(swarm, module, saver, validates=True, **given)
    assert len(module.validated) >= 4  # the first one before anything began
    assert torch.equal(module.validated[1], begun)
    assert not torch.equal(module.validated[2], begun)
    checkpoint = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert ("optimizer_states" in checkpoint) is not weights_only
    saved = checkpoint["state_dict"]
    assert torch.equal(torch.cat([saved["layer.weight"].view(-1), saved["layer.bias"]]), begun)


def test_a_trainer_that_ends_before_the_run_and_a_schedule_by_epochs_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "diloco"), diloco.solo(settings(rounds=9, every=4)) as swarm:
        module = Line(interval="epoch")
        _, callback = fit(swarm, module, max_epochs=1)
        assert torch.equal(flat(module), outer_values(callback))
        assert run_steps(swarm) == 44
    assert "steps are over after 8, and the run is not (round 2 of 9)" in caplog.text
    assert '"interval": "step" follows the swarm' in caplog.text
