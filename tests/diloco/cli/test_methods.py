"""`diloco methods` and `diloco compare` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diloco.cli.app import app
from diloco.cli.methods import whole_count
from diloco.errors import UserError
from diloco.methods.presets import PRESETS

runner = CliRunner()


def test_the_table_has_every_method() -> None:
    shown = runner.invoke(app, ["methods", "--params", "150M", "--peers", "4"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert all(name in shown.output for name in PRESETS)


def test_one_method_is_shown_with_all_its_parts() -> None:
    shown = runner.invoke(app, ["methods", "noloco"], env={"COLUMNS": "200"})
    assert "2506.10911" in shown.output
    assert "gamma" in shown.output


def test_json_is_for_programs() -> None:
    found = json.loads(runner.invoke(app, ["methods", "--json", "--params", "1B", "--peers", "8"]).output)
    assert set(found) == set(PRESETS)
    assert found["local_sgd"]["bytes_per_exchange"] == 7e9
    assert json.loads(runner.invoke(app, ["methods", "diloco", "--json"]).output)["outer"] == "nesterov"


@pytest.mark.parametrize(("text", "value"), [("150M", 150e6), ("1.5b", 1.5e9), ("1_000", 1e3), ("2T", 2e12)])
def test_counts_are_read_as_people_write_them(text: str, value: float) -> None:
    assert whole_count(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "1e99", "M", "0.2"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"no count|not a number"):
        whole_count(text)


def test_a_comparison_prints_a_table_and_writes_what_it_found(tmp_path: Path) -> None:
    sizes = "--workers 2 --tokens 1536 --layers 1 --heads 2 --width 16 --context 16 --batch-size 4"
    shown = runner.invoke(
        app,
        [
            "compare",
            "data_parallel",
            "diloco",
            *sizes.split(),
            "--sync-every",
            "4",
            "--out",
            str(tmp_path / "found"),
        ],
        env={"COLUMNS": "160"},
    )
    assert shown.exit_code == 0, shown.output
    assert "diloco, seed 0: loss" in shown.output
    found = json.loads((tmp_path / "found" / "comparison.json").read_text())
    assert [each["method"] for each in found["results"]] == ["data_parallel", "diloco"]
