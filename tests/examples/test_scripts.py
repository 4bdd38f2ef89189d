"""Each script and each cell of the notebook in `examples/` runs as its page says, and is short.

Where a tracker is not installed, a stand-in is called as it is: with the parameters that it has.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def lines_of(path: Path) -> list[str]:
    if path.suffix != ".ipynb":
        return path.read_text().splitlines()
    cells = json.loads(path.read_text())["cells"]
    return [line for cell in cells for line in cell["source"]]


def test_no_example_has_more_than_60_lines_and_the_page_names_each() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for path in sorted(EXAMPLES.iterdir()):
        if path.name != "README.md" and path.is_file():
            written = [line for line in lines_of(path) if line.strip()]
            assert len(written) < 60, path.name
            assert f"({path.name})" in page, path.name


@pytest.mark.timeout(180)  # torch imports its compiler with the first step
def test_the_loop_that_is_wrapped_learns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "wrap_your_loop.py")
    found = re.fullmatch(r"round 20, 400 inner steps, loss (\S+)\n", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) < 0.01


class Tracker(ModuleType):
    """What wandb and trackio have alike."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[int | None, dict[str, Any]]] = []
        self.began: list[str | None] = []
        self.num_ended = 0

    def init(self, project: str, *, name: str | None = None, config: dict[str, Any] | None = None) -> None:
        self.began.append(project)

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        assert len(self.began) == 1
        self.told.append((step, metrics))

    def finish(self) -> None:
        self.num_ended += 1


class Board(ModuleType):
    """As `torch.utils.tensorboard`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[int | None, dict[str, Any]]] = []
        self.num_ended = 0

    def SummaryWriter(self, log_dir: str) -> Board:
        return self

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        if not self.told or self.told[-1][0] != global_step:
            self.told.append((global_step, {}))
        self.told[-1][1][tag] = scalar_value

    def close(self) -> None:
        self.num_ended += 1


@pytest.mark.parametrize(
    ("where", "stand_in"),
    [
        ("tensorboard", Board("torch.utils.tensorboard")),
        ("wandb", Tracker("wandb")),
        ("trackio", Tracker("trackio")),
    ],
)
def test_each_round_is_told_elsewhere_once_with_what_it_took(
    where: str, stand_in: Tracker | Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    run(monkeypatch, "log_elsewhere.py", where)
    assert [step for step, _ in stand_in.told] == [20, 40, 60, 80, 100]
    assert [each["round/number"] for _, each in stand_in.told] == [1, 2, 3, 4, 5]
    assert {each["round/workers"] for _, each in stand_in.told} == {1}
    assert stand_in.told[-1][1]["loss"] < stand_in.told[0][1]["loss"]
    assert stand_in.num_ended == 1


class Notebook:
    """Runs cells by their names, one after the other in one namespace, as a kernel does."""

    def __init__(self) -> None:
        self.page = json.loads((EXAMPLES / "notebook.ipynb").read_text())
        self.names: dict[str, Any] = {}

    def run(self, name: str) -> object:
        """What a cell's last expression shows."""
        (cell,) = [each for each in self.page["cells"] if each["id"] == name]
        body = ast.parse("".join(cell["source"]), name).body
        shown = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), name, "exec"), self.names)
        if not isinstance(shown, ast.Expr):
            return None
        return eval(compile(ast.Expression(shown.value), name, "eval"), self.names)


def test_the_notebook_is_one_and_keeps_no_output() -> None:
    page = Notebook().page
    assert (page["nbformat"], page["nbformat_minor"]) == (4, 5)
    assert len({each["id"] for each in page["cells"]}) == len(page["cells"])
    for cell in page["cells"]:
        assert set(cell) >= {"cell_type", "id", "metadata", "source"}
        assert cell["cell_type"] != "code" or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_the_notebook_runs_cell_by_cell_some_of_them_again_and_goes_on_at_its_next_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = Notebook()
    assert [each["id"] for each in first.page["cells"]][1:] == [
        *("settings", "host", "model", "attach", "train", "look", "close"),
    ]
    for name in ("settings", "host", "model", "attach", "train", "attach"):
        first.run(name)
    assert "round 3" in repr(first.run("attach"))
    ticket = first.names["swarm"].ticket
    assert (tmp_path / "ticket").stat().st_mode & 0o077 == 0
    assert ticket == (tmp_path / "ticket").read_text()
    assert ticket not in repr(first.names["swarm"])
    first.run("look")
    first.run("close")
    second = Notebook()
    for name in ("settings", "host", "model", "attach"):
        second.run(name)
    assert "round 3" in repr(second.names["outer"])
    second.run("train")
    assert second.names["outer"].finished
    second.run("close")
    assert (tmp_path / "model.safetensors").stat().st_size > 0
    assert "round 3, loss" in capsys.readouterr().out
