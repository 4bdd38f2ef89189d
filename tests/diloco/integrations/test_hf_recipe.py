"""``--recipe hf:MODEL_DIR``: a language model from the disk is trained in a swarm, and loads as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import diloco
from diloco.cli.app import app
from diloco.cli.train import TrainingOutcome, make_job, train
from diloco.cli.usage import run_app
from diloco.errors import EntryError, RecipeError, TextError, UserError
from diloco.interrupts import Interrupts
from diloco.monitoring.event_log import EventLog
from diloco.recipe import check_recipe, job_of, load_recipe
from diloco.settings import RunSettings
from tests.diloco.integrations.kit import LOOPBACK, two_workers

pytest.importorskip("transformers", reason="pip install 'diloco[hf]'")
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from diloco.integrations.hf_recipe import recipe_of
from tests.diloco.integrations.hf_kit import config, model_in, text_in, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21
CPU = torch.device("cpu")


def run(lora: int = 0, context: int = 16, **more: Any) -> RunSettings:
    return RunSettings.model_validate(
        {
            "run": {"rounds": 3, "min_peers": 2, **more},
            "method": {"preset": "diloco", "sync_every": 4, "codec": "fp32"},
            "model": {"context": context, "lora": lora},
            "train": {"batch_size": 4, "warmup_steps": 0, "inner_lr": 3e-3},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_in(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def text(folder: Path) -> Path:
    return text_in(folder.parent / "text.txt")


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().reshape(-1) for each in model.parameters() if each.requires_grad])


@pytest.mark.parametrize("lora", [0, 2])
def test_two_workers_train_a_model_of_the_disk_and_what_they_save_loads_by_from_pretrained(
    folder: Path, text: Path, tmp_path: Path, lora: int
) -> None:
    begun: list[float] = []

    def worker(swarm: diloco.Swarm, home: Path) -> TrainingOutcome:
        job = make_job(load_recipe(f"hf:{folder}"), swarm, text, "cpu")
        begun.append(job.evaluate())
        log, interrupts = EventLog(None), Interrupts()
        return train(swarm, job, log=log, interrupts=interrupts, save=home / "out")

    first, second = two_workers(tmp_path, run(lora), worker)
    assert first.loss == second.loss < begun[0] == begun[1]
    kind = AutoPeftModelForCausalLM if lora else AutoModelForCausalLM
    models = [kind.from_pretrained(tmp_path / name / "out") for name in ("a", "b")]
    states = [each.state_dict() for each in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    again = AutoTokenizer.from_pretrained(tmp_path / "a" / "out")
    assert again.decode(again("1 and 2")["input_ids"]) == "1 and 2"
    base = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    weight = next(
        name for name in states[0] if name.endswith("q_proj.base_layer.weight" if lora else "q_proj.weight")
    )
    kept = torch.equal(states[0][weight], base["model.layers.0.self_attn.q_proj.weight"])
    assert kept is bool(lora)
    if lora:
        assert max(first.bytes_received, second.bytes_received) < 400_000


def test_of_a_base_that_all_have_nothing_travels_and_only_adapters_are_exchanged(
    folder: Path, text: Path
) -> None:
    with diloco.solo(run(lora=2)) as swarm:
        job = make_job(load_recipe(f"hf:{folder}"), swarm, text, "cpu")
        with diloco.attach(job.model, job.optimizer, swarm) as outer:
            layout = outer.replica.layout
    trained = [spec.name for spec in layout.fragments[0] if spec.num_elements]
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lora_" in spec.name for spec in layout.frozen)


def test_from_a_config_alone_all_workers_begin_with_the_same_values(text: Path, tmp_path: Path) -> None:
    bare = model_in(tmp_path / "bare", weights=False)
    jobs = [job_of(recipe_of(where), run(), text, CPU, "me") for where in (str(bare), f"{bare}/config.json")]
    assert torch.equal(flat(jobs[0].model), flat(jobs[1].model))
    with pytest.raises(RecipeError, match="no weights for LoRA to adapt"):
        job_of(recipe_of(str(bare)), run(lora=2), text, CPU, "me")


def test_each_worker_draws_rows_in_an_order_of_its_own_each_once_in_an_epoch(
    folder: Path, text: Path
) -> None:
    def rows(salt: str, count: int) -> list[list[int]]:
        batches = iter(job_of(recipe_of(str(folder)), run(), text, CPU, salt).batches)
        return [row for _ in range(count) for row in next(batches).tolist()]

    assert rows("ann", 5) == rows("ann", 5)
    assert rows("ann", 5) != rows("bob", 5)
    drawn = rows("ann", 10)
    assert len({tuple(row) for row in drawn}) == len(drawn)


def test_a_later_process_goes_on_with_the_next_rows(folder: Path, text: Path) -> None:
    def batches() -> Any:
        return job_of(recipe_of(str(folder)), run(), text, CPU, "ann").kept()["batches"]

    before, after = batches(), batches()
    for _ in range(50):  # into a later epoch
        next(before)
    after.load_state_dict(before.state_dict())
    assert torch.equal(next(before), next(after))


def test_a_sample_is_longer_than_what_the_model_sees(text: Path, tmp_path: Path) -> None:
    """Of one with learned positions, of which there are no more."""
    words = tokenizer()
    words.save_pretrained(tmp_path)
    sizes: Any = {"vocab_size": len(words), "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes)).save_pretrained(tmp_path)
    job = job_of(recipe_of(str(tmp_path)), run(), text, CPU, "me")
    assert job.sample()


def test_who_has_another_tokenizer_is_refused_by_name(folder: Path, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    words = tokenizer()
    words.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    words.save_pretrained(other)
    settings = run(min_peers=1)
    with diloco.host(settings, listen=LOOPBACK, state=tmp_path / "host") as host:
        job = make_job(load_recipe(f"hf:{folder}"), host, text, "cpu")
        with (
            diloco.attach(job.model, job.optimizer, host),
            diloco.join(host.ticket, listen=LOOPBACK) as swarm,
        ):
            job = make_job(load_recipe(f"hf:{other}"), swarm, text, "cpu")
            with pytest.raises(EntryError, match="tokenizer_"):
                diloco.attach(job.model, job.optimizer, swarm, timeout_s=20.0)


REFUSED = {
    "no folder": (lambda at: shutil.rmtree(at / "m"), "there is no folder"),
    "no config": (lambda at: (at / "m" / "config.json").unlink(), "has no config.json"),
    "no tokenizer": (
        lambda at: [each.unlink() for each in (at / "m").glob("token*")],
        "a tokenizer in",
    ),
    "no data": (lambda at: (at / "text.txt").unlink(), "text.txt does not exist"),
    "little text": (lambda at: (at / "text.txt").write_text("short"), "two sequences of model.context = 16"),
    "other vocabulary": (
        lambda at: config(40).save_pretrained(at / "m"),
        "they do not belong together",
    ),
    "no language model": (
        lambda at: (at / "m" / "config.json").write_text('{"model_type": "vit"}'),
        "it is no causal language model",
    ),
    "unknown model": (
        lambda at: (at / "m" / "config.json").write_text('{"model_type": "made_up"}'),
        "config.json in",
    ),
    "old weights": (
        lambda at: (at / "m" / "model.safetensors").rename(at / "m" / "pytorch_model.bin"),
        "weights that are no safetensors",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_said_in_one_line_before_anything_listens(
    folder: Path, text: Path, tmp_path: Path, case: str
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    shutil.copy(text, tmp_path / "text.txt")
    spoil, line = REFUSED[case]
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        check_recipe(load_recipe(f"hf:{tmp_path / 'm'}"), tmp_path / "text.txt", run())
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_host_says_so_before_it_listens_and_makes_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "RUN.toml").write_text("[model]\ncontext = 128\n")
    words = [
        "host",
        str(tmp_path / "RUN.toml"),
        "--train",
        "--recipe",
        f"hf:{folder}",
        "--state",
        str(tmp_path / "s"),
    ]
    for more, line in (
        ([], "trains on text of yours: give --data FILE"),
        (["--data", str(tmp_path / "RUN.toml")], "model.context = 128: the model of"),
    ):
        with pytest.raises((RecipeError, TextError), match=line):
            run_app(app, [*words, *more])
    assert not (tmp_path / "s").exists()


def test_the_built_in_model_has_no_adapters() -> None:
    with pytest.raises(RecipeError, match=r"model\.lora = 2: the built-in model has no base"):
        job_of(load_recipe("gpt"), run(lora=2), None, CPU, "me")
