"""The page of a simulated run: whole, equal for equal runs, nothing from elsewhere, nothing unescaped."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from diloco.simulation.report.html import MAX_LANES, WIDTH, lanes_of, merged, render_page
from diloco.simulation.report.report import Mark, SimulationReport, Span
from tests.diloco.simulation.report.reports import report_of

NASTY = '"><u>&amp;'


class Tags(HTMLParser):
    """Tags in order, and every text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_and_loads_nothing() -> None:
    page = render_page(report_of())
    tags = Tags(page)
    assert {"svg", "rect", "table", "script", "style"} <= set(tags.opened)
    assert not {name for name, _ in tags.attributes} & {"src", "href", "onclick", "onload"}
    assert "p-1 trains, 0.0 s to 0:01:30" in tags.text
    assert "fragment 0: committed, 2.00 s" in tags.text
    assert "What faults cost" in tags.text
    assert page == render_page(report_of())


def test_no_text_of_a_scenario_becomes_a_tag() -> None:
    def nasty(report: SimulationReport) -> SimulationReport:
        report.scenario = report.about = report.ended = NASTY
        report.violations = [NASTY]
        report.peers[0].name = report.peers[0].region = report.peers[0].exchanges[0].outcome = NASTY
        report.marks = [Mark(1.0, NASTY, NASTY, True)]
        return report

    tags = Tags(render_page(nasty(report_of())))
    assert "u" not in tags.opened
    assert tags.text.count(NASTY) >= 9
    assert "&" not in tags.text.replace("&amp;", ""), "nothing is escaped twice"


def test_losses_are_drawn_if_there_are_any() -> None:
    report = report_of()
    assert "Training loss" not in render_page(report)
    report.losses = [(1.0, 10, 5.0), (2.0, 20, 4.0)]
    assert "Training loss against tokens" in render_page(report)


def test_of_many_peers_those_with_faults_are_drawn_and_some_from_busy_to_idle() -> None:
    report = report_of(num_peers=200)
    report.marks = [Mark(1.0, "p-150", "crash", True), Mark(1.0, "p-151", "noted", False)]
    names = [peer.name for peer in lanes_of(report)]
    assert len(names) == MAX_LANES
    assert {"p-1", "p-150", "p-200"} <= set(names)
    assert "p-151" not in names, "what the coordinator noted is no fault"
    assert names == sorted(names, key=lambda name: int(name[2:])), "in the report's order"
    assert "40 of 200 peers are drawn" in render_page(report)
    few = report_of(num_peers=3)
    assert lanes_of(few) == few.peers


def test_what_is_too_narrow_to_see_is_drawn_as_what_is_longest_around_it_and_no_time_is_lost() -> None:
    spans = []
    for i in range(10_000):
        begin, middle, end = 0.01 * i, 0.01 * i + 0.001, 0.01 * (i + 1)
        spans += [Span("wait", begin, middle), Span("compute", middle, end)]
    found = merged(spans, WIDTH / 100.0)
    assert len(found) <= 2001
    assert {each[0] for each in found} == {"compute"}
    assert sum(end - start for *_, start, end in found) == pytest.approx(100.0)


def test_a_time_away_is_not_drawn_over() -> None:
    found = merged([Span("compute", 0.0, 0.001), Span("compute", 50.0, 50.001)], WIDTH / 100.0)
    assert [(start, end) for *_, start, end in found] == [(0.0, 0.001), (50.0, 50.001)]
