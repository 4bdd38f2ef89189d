"""`diloco simulate` as people call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diloco.cli.app import app
from diloco.cli.simulate import SHIPPED
from diloco.errors import UserError
from diloco.simulation.faults import faults_of
from diloco.simulation.report.report import SimulationReport
from diloco.simulation.scenario import load_scenario

SMALL = """
name = "<script>alert(1)</script>"
about = "[bold]plain[/bold]"
[run]
rounds = 3
failure_timeout_s = 4.0
[method]
preset = "diloco"
sync_every = 10
[model]
parameters = "1M"
[[peers]]
name = "p"
count = 3
step = "1s"
up = "50Mbps"
[[events]]
do = "crash"
peers = "p-1"
round = 1
for = "5s"
"""


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def test_a_scenario_is_run_shown_and_written(small: str, tmp_path: Path) -> None:
    page, report = tmp_path / "new" / "page.html", tmp_path / "report.json"
    result = call("simulate", small, "--html", str(page), "--json", str(report))
    assert result.exit_code == 0, result.output
    assert "compute utilization" in result.output
    assert "[bold]" not in result.output or "[bold]plain" in result.output
    plain = json.loads(report.read_text())
    assert len(plain["rounds"]) == 3
    text = page.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_report_is_printed_byte_for_byte_the_same(small: str) -> None:
    first, second = (call("simulate", small, "--json", "-").output for _ in range(2))
    assert first == second
    assert json.loads(first)["seed"] == 0


def test_many_seeds_are_checked(small: str) -> None:
    result = call("simulate", small, "--seeds", "0:3", "--processes", "1")
    assert result.exit_code == 0, result.output
    assert "3 seeds, 0 broken" in result.output


def test_single_events_are_listed_and_can_be_left_out(small: str) -> None:
    assert "crash p-1 for 5 s" in call("simulate", small, "--events").output
    result = call("simulate", small, "--only", "none", "--json", "-")
    assert json.loads(result.output)["recoveries"] == []


def test_settings_can_be_replaced(small: str) -> None:
    result = call("simulate", small, "--set", "run.rounds=2", "--set", "peers.0.count=2", "--json", "-")
    plain = json.loads(result.output)
    assert len(plain["rounds"]) == 2
    assert len(plain["peers"]) == 2


def test_every_shipped_scenario_is_listed_and_makes_sense() -> None:
    shipped = sorted(SHIPPED.glob("*.toml"))
    assert shipped
    listed = call("simulate").output
    for path in shipped:
        assert path.stem in listed
        assert load_scenario(path).about


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "no-such-scenario"),
        ("simulate", "/no/such/file.toml"),
        ("simulate", "mixed-speeds", "--seeds", "5:2"),
        ("simulate", "mixed-speeds", "--only", "1,x"),
        ("simulate", "mixed-speeds", "--set", "nonsense"),
    ],
)
def test_nonsense_is_refused_without_a_traceback(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, UserError)
    assert len(str(result.exception).splitlines()) <= 2


class Outcomes:
    """Stands for a simulation in which two events matter."""

    def __init__(self, needed: set[str]) -> None:
        self.needed = needed

    def __call__(self, scenario: Any, *, seed: int | None = None, faults: Any = None) -> SimulationReport:
        happened = {str(fault) for fault in (faults_of(scenario) if faults is None else faults)}
        report = SimulationReport("s", "", seed or 0, "timed", "diloco", 1, "the end")
        if self.needed <= happened:
            report.violations.append("invariant S1 at 3.200 s: \x1b[31mother bits")
        return report


def test_a_broken_seed_is_shrunk_and_the_command_that_replays_it_is_printed(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diloco.simulation.sweep.simulate", Outcomes({"at round 1: crash p-1 for 5 s"}))
    result = call("simulate", small, "--set", "run.rounds=4", "--seeds", "3:5", "--processes", "1")
    assert result.exit_code == 1
    assert "2 seeds, 2 broken" in result.output
    assert "seed 3: invariant S1 at 3.200 s: ?[31mother bits" in result.output
    assert f"replay: diloco simulate {small} --set run.rounds=4 --seed 3 --only 0" in result.output


def test_a_seed_that_breaks_without_any_event_says_so(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diloco.simulation.sweep.simulate", Outcomes(set()))
    result = call("simulate", small, "--seeds", "3:4", "--processes", "1")
    assert "none: it breaks without any" in result.output
    assert "--seed 3 --only none" in result.output


def test_a_violation_is_shown_and_ends_with_exit_code_1(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diloco.simulation.runner.simulate", Outcomes(set()))
    result = call("simulate", small)
    assert result.exit_code == 1
    assert "invariant S1 at 3.200 s" in result.output
