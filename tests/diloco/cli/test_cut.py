"""`diloco cut`: what it prints can be put into the file as it is, and what it refuses is one line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diloco.cli.app import app
from diloco.cli.cut import STATE_BYTES
from diloco.errors import UserError
from diloco.settings import parse_settings

RUN = """
[model]
layers = 3
heads = 2
width = 16
context = 16
tied = false
[pipeline]
stages = 2
microbatch = 2
"""


def cut(path: Path, *more: str, data: Path | None = None) -> str:
    given = ["cut", str(path), "--data", str(data or path), "--threads", "1", *more]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    return result.output


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "RUN.toml"
    path.write_text(RUN + f"# {'text ' * 200}\n")
    return path


def test_the_cuts_that_it_prints_are_settings(run: Path) -> None:
    output = cut(run, "--stages", "3")
    printed = tomllib.loads(output[output.index("[pipeline]") :])
    cuts = parse_settings(printed, "printed").pipeline.cuts
    assert len(cuts) == 2
    assert "5 layers in 3 stages" in output
    assert "of equal parameters" in output
    assert STATE_BYTES == 16, "as a host counts a stage for a joiner that names its memory"


def test_a_run_of_one_stage_and_a_recipe_that_names_no_layers_are_refused(run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "WHOLE.toml"
    whole.write_text("[run]\nname = 'whole'\n")
    with pytest.raises(UserError, match=r"pipeline\.stages = 1: set it there, or give --stages"):
        cut(whole)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torch import nn\nfrom diloco.recipe import Job\n"
        "def job(settings, data_path, device, worker_salt, part):\n"
        "    return Job(nn.Linear(1, 1), None, print, iter(()), 1, print, print)\n"
    )
    with pytest.raises(
        UserError, match=r"does not say what it cuts: let it return Job\(..., layers=layers\)"
    ):
        cut(run, "--recipe", f"{mine}:job")
    with pytest.raises(UserError, match="6 stages of 5 layers are not possible: choose 1 to 5 stages"):
        cut(run, "--stages", "6")


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        ("", "has no batches: there is nothing to time layers with"),
        ("torch.zeros(2, 4)", "let it be a pair of tensors, input and targets"),
        ("{'x': 1, 'y': 2}", "let it be a pair of tensors"),
        ("(torch.zeros(2),)", "let it be a pair of tensors"),
        ("(torch.zeros(2), 3)", "let it be a pair of tensors"),
    ],
)
def test_batches_that_are_no_microbatches_are_refused(
    run: Path, tmp_path: Path, batches: str, text: str
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import torch\nfrom torch import nn\nfrom diloco.recipe import Job\n"
        "def job(settings, data_path, device, worker_salt, part):\n"
        "    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]\n"
        f"    return Job(layers[0], None, print, iter([{batches}]), 1, print, print, loss=print,"
        " layers=layers)\n"
    )
    with pytest.raises(UserError, match=text):
        cut(run, "--recipe", f"{mine}:job")
