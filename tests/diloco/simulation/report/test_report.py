"""A report as JSON: all of it, sorted, rounded to the nanosecond, equal for equal runs."""

from __future__ import annotations

import json

from tests.diloco.simulation.report.reports import report_of


def test_equal_reports_give_equal_bytes_whatever_the_order_of_what_was_counted() -> None:
    one, two = report_of(), report_of()
    two.peers[0].sent = dict(reversed(two.peers[0].sent.items()))
    assert one.to_json() == two.to_json()
    two.rounds.pop()
    assert one.to_json() != two.to_json()


def test_what_differs_by_less_than_a_nanosecond_is_equal() -> None:
    one, two = report_of(), report_of()
    two.seconds += 1e-11
    assert one.to_json() == two.to_json()
    two.seconds += 1e-8
    assert one.to_json() != two.to_json()


def test_everything_is_in_it() -> None:
    plain = json.loads(report_of().to_json())
    assert plain["peers"][0]["spans"][0] == {"activity": "compute", "start_s": 0.0, "end_s": 90.0}
    assert plain["rounds"][1]["exchange_s"] == 2.0
    assert plain["recoveries"][0]["recommit_s"] is None
    assert plain["marks"][0]["text"] == "crash"


def test_a_round_ends_when_the_last_member_has_it() -> None:
    assert report_of().rounds[1].end_s == 13.5
