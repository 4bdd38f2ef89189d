"""A report on a terminal: what is said, what is left out of long ones, and that names move no cursor."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from diloco.simulation.report.report import SimulationReport
from diloco.simulation.report.tables import clock, render
from tests.diloco.simulation.report.reports import NASTY, report_of


def shown(report: SimulationReport) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(report))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_summary_says_what_was_lost_to_the_network() -> None:
    text = shown(report_of())
    assert "a scenario, seed 7, timed" in text
    assert "50.0%" in text
    assert "50 of 100 without a network (50.0%)" in text
    assert "exchange 2 MB, control 1 kB" in text
    assert "it ended with the run is finished" in text


def test_a_fault_is_shown_with_what_it_cost_and_blanks_where_it_did_not_come_to_that() -> None:
    line = next(line for line in shown(report_of()).splitlines() if "crash" in line)
    assert line.split() == ["11.0", "s", "p-1", "crash", "4.0", "6.5"]


def test_violations_are_shown() -> None:
    report = report_of()
    report.violations.append("invariant S1 at 3.200 s: words")
    assert "invariant S1 at 3.200 s: words" in shown(report)


def test_of_many_rounds_the_first_and_last_are_shown_and_least_median_and_most() -> None:
    text = shown(report_of(num_rounds=30))
    numbers = [line.split()[0] for line in text.splitlines() if line.strip()[:2].strip().isdigit()]
    assert [n for n in numbers if n in {"1", "3", "4", "27", "28", "30"}] == ["1", "3", "28", "30"]
    assert all(word in text for word in ("least", "median", "most"))


def test_of_many_peers_the_busiest_the_middle_and_the_least_busy_are_shown() -> None:
    text = shown(report_of(num_peers=40))
    assert "12 of 40: the busiest, those in the middle, the least busy" in text
    assert "p-1 " in text
    assert "p-40 " in text
    assert "p-10 " not in text


def test_a_run_without_a_commit_says_so() -> None:
    assert "no round was committed" in shown(report_of(num_rounds=0))


def test_names_and_reasons_are_shown_as_plain_characters() -> None:
    report = report_of()
    report.scenario = report.peers[0].name = NASTY
    report.violations.append(NASTY)
    text = shown(report)
    assert "\x1b" not in text
    assert text.count("<script>?[31m&") == 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.0, "59.0 s"), (61.0, "0:01:01"), (36_000.4, "10:00:00")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text
