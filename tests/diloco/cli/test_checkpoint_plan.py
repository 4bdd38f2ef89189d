"""`diloco checkpoint plan` says what a new run would take over, and begins nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from diloco.cli.app import app
from diloco.cli.checkpoint_plan import plan_command
from diloco.errors import CheckpointError
from diloco.models.gpt import GPT

RUN = """
[method]
preset = "streaming"
num_fragments = 2
[model]
layers = 2
heads = 1
width = 16
context = 16
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "RUN.toml"
    path.write_text(RUN)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    return path


def planned(origin: Path, run: Path) -> str:
    text = ("--data", str(run.with_name("text.txt")))
    done = CliRunner().invoke(app, ["checkpoint", "plan", str(origin), str(run), *text])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_model_is_shown_by_what_is_kept_and_what_is_not(run_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = dict(GPT(2, 1, 16, 16, seed=3).named_parameters())
    dropped = sorted(model)[0]
    save_file(
        {name: value.detach().clone() for name, value in model.items() if name != dropped}
        | {"more": torch.ones(2)},
        path,
    )
    said = planned(path, run_file)
    assert "from the model model.safetensors" in said
    assert f"kept: {len(model) - 1} tensors" in said
    assert "into 2 fragments" in said
    assert "dropped: more" in said
    assert f"anew: {dropped}" in said
    assert not [each for each in tmp_path.iterdir() if each.is_dir()], "nothing was begun"


def test_what_cannot_be_taken_is_named(run_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    name, value = next(iter(GPT(2, 1, 16, 16, seed=3).named_parameters()))
    save_file({name: torch.zeros(*(size + 1 for size in value.shape))}, path)
    with pytest.raises(CheckpointError, match=f"{name} has shape"):
        planned(path, run_file)
    assert plan_command.__doc__
