"""What a report says of stages, in a terminal and on its page."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from diloco.simulation.report.html import render_page
from diloco.simulation.report.report import Microbatches, SimulationReport, StageReport
from diloco.simulation.report.stage_tables import COLUMNS, MORE_COLUMNS, microbatches_line, stage_row
from diloco.simulation.report.swimlanes import MAX_LANES, lanes_of, step_drawn, swimlanes
from diloco.simulation.report.tables import render
from diloco.simulation.runner import simulate
from tests.diloco.simulation.small_pipeline import small


@pytest.fixture(scope="module")
def report() -> SimulationReport:
    return simulate(small())


def test_a_row_has_a_cell_for_each_column() -> None:
    stage = StageReport(
        2,
        7_000,
        ["a", "b"],
        {"forward": 1.0, "backward": 3.0, "bubble": 2.0, "down": 4.0},
        utilization=0.4,
        steps=5,
        short_steps=1,
        counted=19,
        partial=2,
        rounds=3,
        sent={"stream": 1000, "exchange": 10, "early": 20},
    )
    row = dict(zip((*COLUMNS, *MORE_COLUMNS), stage_row(stage), strict=True))
    assert (row["stage"], row["replicas"], row["parameters"], row["busy"]) == ("2", "2", "7,000", "40.0%")
    assert (row["forward s"], row["backward s"], row["bubble s"], row["away s"]) == ("1", "3", "2", "4")
    assert (row["steps"], row["short"], row["counted"], row["partial"]) == ("5", "1", "19", "2")
    assert (row["boundaries"], row["exchanges"]) == ("1 kB", "30 B")


def test_the_last_stage_goes_forward_and_backward_in_one() -> None:
    last = StageReport(3, 1, seconds={"compute": 8.0})
    row = dict(zip((*COLUMNS, *MORE_COLUMNS), stage_row(last), strict=True))
    assert (row["forward s"], row["backward s"]) == ("", "8")


def test_what_became_of_microbatches_is_one_line() -> None:
    found = Microbatches(fed=10, settled=6, partial=2, lost=1, by_cause={"cut": 2, "refused": 1}, tokens=8)
    line = microbatches_line(found)
    assert "10 microbatches of 8 tokens were fed: 6 settled, 2 partial, 1 lost (cut 2, refused 1), 1" in line


def test_the_terminal_shows_every_stage(report: SimulationReport) -> None:
    console = Console(width=250, record=True, file=StringIO())
    console.print(render(report))
    text = console.export_text()
    assert "stages: seconds of all replicas together" in text
    assert "32 settled, 0 partial, 0 lost" in text


def test_a_lane_has_the_spans_of_its_step_by_stage(report: SimulationReport) -> None:
    drawn = step_drawn(report)
    assert drawn is not None
    begin, end = drawn
    assert [stage for stage, _ in lanes_of(report)] == [0, 0, 1, 1, 2, 2]
    shapes = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', swimlanes(report))
    scale = 1000 / (end - begin)
    top = [(kind, float(x), float(width)) for kind, x, y, width in shapes if float(y) < 20]
    forward = [width for kind, _, width in top if kind == "forward"]
    assert sum(forward) == pytest.approx(4 * 0.25 * scale, rel=0.1)
    assert all(x >= 0 and x + width <= 1000.5 for _, x, width in top)


def test_a_page_of_a_model_in_stages_has_both_drawings(report: SimulationReport) -> None:
    page = render_page(report)
    assert "<h2>Stages</h2>" in page
    assert "<h2>An inner step</h2>" in page
    assert page.count("<svg") == 5
    assert "waits for microbatches" in page


def test_a_page_of_a_whole_model_tells_nothing_of_stages() -> None:
    page = render_page(simulate(small(stages=1, num_peers=2)))
    assert "tage" not in page.split("<body>")[1]
    assert "bubble" not in page


def test_of_very_many_replicas_the_first_of_each_stage_are_drawn(report: SimulationReport) -> None:
    name = report.stages[0].peers[0]
    many = SimulationReport("s", "", 0, "timed", "diloco", 1, "the end", peers=report.peers)
    many.stages = [StageReport(stage, 1, [name] * 3) for stage in range(MAX_LANES // 2)]
    assert len(lanes_of(many)) == MAX_LANES
    assert step_drawn(many) is None
    assert swimlanes(many) == ""
