"""Recipes: the built-in one learns, and others load from disk or say why not."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from diloco.errors import RecipeError
from diloco.models.inner_optimizers import lr_share
from diloco.recipe import Job, gpt, job_of, load_recipe
from diloco.settings import RunSettings, parse_settings

CPU = torch.device("cpu")


def tiny(**train: float) -> RunSettings:
    return parse_settings(
        {
            "model": {"layers": 1, "heads": 2, "width": 16, "context": 16},
            "train": {"batch_size": 4, "warmup_steps": 4, **train},
        },
        "tiny",
    )


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 100, encoding="utf-8")
    return path


def job(text_file: Path, salt: str = "a", **train: float) -> Job:
    return gpt(tiny(**train), text_file, CPU, salt)


def test_the_built_in_recipe_lowers_its_validation_loss(text_file: Path) -> None:
    made = job(text_file, inner_lr=1e-2)
    before = made.evaluate()
    for batch in itertools.islice(made.batches, 60):
        loss = made.step(batch)
    assert not loss.requires_grad
    assert made.evaluate() < before - 1.0
    assert made.tokens_per_step == 64


def test_evaluation_is_repeatable_and_equal_on_all_workers(text_file: Path) -> None:
    first, second = job(text_file, "a"), job(text_file, "b")
    assert first.evaluate() == first.evaluate() == second.evaluate()
    assert first.model.training


def test_workers_start_from_one_model_and_draw_different_batches(text_file: Path) -> None:
    first, second = job(text_file, "a"), job(text_file, "b")
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.batches)[0], next(second.batches)[0])


def test_warmup_rises_straight_and_then_stays() -> None:
    assert [lr_share(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert lr_share(0, 0) == 1.0


def test_the_learning_rate_falls_as_a_cosine_to_a_tenth() -> None:
    shares = [lr_share(step, 0, 100) for step in (0, 50, 100, 500)]
    assert shares == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_the_learning_rate_follows_the_inner_step(text_file: Path) -> None:
    made = job(text_file, inner_lr=1e-3)
    rates = []
    for batch in itertools.islice(made.batches, 5):
        made.step(batch)
        rates.append(made.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_the_learning_rate_is_that_of_the_swarms_step(text_file: Path) -> None:
    made = job(text_file, inner_lr=1e-3)
    assert made.at_step is not None
    made.at_step(1000)
    made.step(next(made.batches))
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3), "it does not warm up"


def test_settings_that_change_count_from_the_next_step_on(text_file: Path) -> None:
    made = job(text_file, inner_lr=1e-3, warmup_steps=0)
    made.step(next(made.batches))
    assert made.follow is not None
    made.follow(parse_settings({"train": {"inner_lr": 5e-3, "warmup_steps": 4, "weight_decay": 0.3}}, ""))
    made.step(next(made.batches))
    decayed, plain = made.optimizer.param_groups
    assert decayed["lr"] == pytest.approx(5e-3 * 2 / 4), "the second step of four that warm up"
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)


def test_gradients_are_clipped(text_file: Path) -> None:
    made = job(text_file, clip_norm=1e-3)
    made.step(next(made.batches))
    norm = torch.stack([p.grad.norm() for p in made.model.parameters() if p.grad is not None]).norm()
    assert float(norm) <= 1.01e-3


def test_norms_have_no_weight_decay(text_file: Path) -> None:
    decayed, plain = job(text_file).optimizer.param_groups
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() < 2 for p in plain["params"])
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_a_sample_is_text(text_file: Path) -> None:
    assert isinstance(job(text_file).sample(), str)


def test_recipes_load_by_name_module_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_recipes.py").write_text("def small(settings, data, device, salt):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_recipe("gpt") is gpt
    assert load_recipe("diloco.recipe:gpt") is gpt
    assert load_recipe("my_recipes:small")(tiny(), None, CPU, "") == 1  # type: ignore[comparison-overlap]
    assert load_recipe(f"{tmp_path}/my_recipes.py:small")(tiny(), None, CPU, "") == 1  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("small", "neither gpt"),
        ("a:b c", "neither gpt"),
        ("no_such_module_here:f", "not installed"),
        ("diloco.no_such_part:f", "not installed"),
        ("diloco.recipe:nothing", "has no nothing"),
        ("diloco.recipe:SAMPLE_BYTES", "is int, not a function"),
        ("no/such/file.py:f", "does not exist"),
    ],
)
def test_a_recipe_that_cannot_be_found_says_why(name: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(name)


@pytest.mark.parametrize("code", ["import no_such_module_here", "1 / 0", "def ("])
def test_a_recipe_whose_code_fails_says_how(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_recipe.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("broken_recipe:f", f"{tmp_path}/broken_recipe.py:f"):
        with pytest.raises(RecipeError, match="does not load"):
            load_recipe(name)


def in_file(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text("from diloco.recipe import Job\n" + text)
    return f"{path}:make"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "def make(settings, data_path): ...",
            r"to be called with \(settings, data_path, device, worker_salt\)",
        ),
        ("def make(settings, data_path, device, worker_salt, lr): ...", "takes .*'lr'"),
        (
            "def make(a, b, c, d) -> int: ...",
            "is to return a diloco.recipe.Job, and says that it returns int",
        ),
        (
            "from __future__ import annotations\ndef make(a, b, c, d) -> None: ...",
            "says that it returns None",
        ),
    ],
)
def test_a_recipe_that_could_not_be_called_is_refused_when_it_is_loaded(
    tmp_path: Path, text: str, reason: str
) -> None:
    text = text.replace("from __future__ import annotations\n", "")
    with pytest.raises(RecipeError, match=reason):
        load_recipe(in_file(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "def make(*given) -> Job: ...",
        "def make(a, b, c, d, e=1): ...",
        "def make(a, b, c, d, part): ...",
        "class make(Job):\n    def __init__(self, a, b, c, d): ...",
        "def make(a, b, c, d) -> 'Unknown': ...",
    ],
)
def test_a_recipe_that_can_be_called_is_loaded(tmp_path: Path, text: str) -> None:
    assert callable(load_recipe(in_file(tmp_path, text)))


def test_what_a_recipe_returned_is_looked_at_before_it_is_trained(text_file: Path) -> None:
    def returning(what: object) -> Any:
        return lambda *given: what

    with pytest.raises(RecipeError, match=r"returned tuple: it is to return a diloco\.recipe\.Job"):
        job_of(returning((1, 2)), tiny(), None, CPU, "")
    wrong = dataclasses.replace(job(text_file), batches=7, tokens_per_step=0, evaluate=None)  # type: ignore[arg-type]
    with pytest.raises(
        RecipeError, match=r"batches are to be iterable; tokens_per_step is .*; evaluate is to be"
    ):
        job_of(returning(wrong), tiny(), None, CPU, "")
