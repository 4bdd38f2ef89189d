"""A lane that does not get on is closed while control answers; after three of these bulk rests from lanes."""

from __future__ import annotations

import pytest

from transport.errors import BadMessage
from transport.sealed.trouble import BulkChoice, LaneWatch


def test_a_record_that_nobody_takes_for_two_seconds_while_control_answers_ends_the_lane() -> None:
    watch = LaneWatch(0.0)
    watch.sent(10.0, 1)
    assert watch.due() == 12.0
    assert not watch.is_stuck(11.9, control_heard_at=11.8)
    assert watch.is_stuck(12.0, control_heard_at=11.9)


def test_while_the_whole_peer_is_silent_no_lane_is_at_fault() -> None:
    watch = LaneWatch(0.0)
    watch.sent(10.0, 1)
    assert not watch.is_stuck(60.0, control_heard_at=10.2)


def test_a_slow_line_is_no_trouble_as_long_as_bytes_move() -> None:
    """1 MiB at 1 Mbit/s takes more than eight seconds."""
    watch = LaneWatch(0.0)
    watch.sent(0.0, 1)
    for tenth in range(1, 90):
        watch.moved(tenth / 10)
        assert not watch.is_stuck(tenth / 10 + 0.09, control_heard_at=tenth / 10)
    watch.taken(9.0, 1)
    assert watch.due() is None


def test_an_idle_lane_is_never_stuck_and_its_next_record_has_its_whole_time() -> None:
    watch = LaneWatch(0.0)
    watch.sent(1.0, 1)
    watch.taken(1.1, 1)
    assert not watch.is_stuck(500.0, control_heard_at=500.0)
    watch.sent(500.0, 2)
    assert not watch.is_stuck(501.9, control_heard_at=501.8)
    assert watch.is_stuck(502.0, control_heard_at=501.9)


def test_over_a_long_path_the_lane_has_four_round_trips() -> None:
    watch = LaneWatch(0.0)
    watch.sent(0.0, 1)
    watch.taken(0.9, 1)
    assert watch.round_trip_s == pytest.approx(0.9)
    watch.sent(10.0, 2)
    assert watch.due() == pytest.approx(13.6)


@pytest.mark.parametrize("number", [0, 3, 1 << 63])
def test_whoever_took_what_was_never_sent_breaks_the_rules(number: int) -> None:
    watch = LaneWatch(0.0)
    watch.sent(0.0, 2)
    watch.taken(0.1, 1)
    with pytest.raises(BadMessage):
        watch.taken(0.2, number)


def test_what_a_watch_remembers_is_bounded() -> None:
    watch = LaneWatch(0.0)
    for number in range(1, 10_000):
        watch.sent(number / 1_000, number)
    watch.taken(20.0, 9_999)
    assert watch.round_trip_s == pytest.approx(20.0 - 0.064)


def test_three_ends_within_a_minute_leave_bulk_on_curve_for_five_minutes() -> None:
    choice = BulkChoice()
    assert choice.may_ask(0.0)
    assert [choice.troubled(at) for at in (0.0, 30.0, 60.0)] == [False, False, True]
    assert choice.due() == 360.0
    assert not choice.may_ask(359.9)
    assert choice.may_ask(360.0)
    assert not choice.troubled(361.0), "what was before the rest counts no more"


def test_three_ends_over_more_than_a_minute_change_nothing() -> None:
    choice = BulkChoice()
    assert not any(choice.troubled(at) for at in (0.0, 30.0, 60.1, 91.0, 121.0))
    assert choice.may_ask(121.0)


def test_a_closed_port_is_told_once_until_a_lane_comes_up_and_tried_every_five_minutes() -> None:
    choice = BulkChoice()
    assert choice.refused(0.0)
    assert not choice.may_ask(299.0)
    assert choice.may_ask(300.0)
    assert not choice.refused(300.0)
    assert not choice.may_ask(599.0)
    choice.opened()
    assert choice.due() is None
    assert choice.refused(700.0)
