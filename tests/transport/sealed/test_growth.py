"""Lanes are added while that makes bulk faster, and not otherwise."""

from __future__ import annotations

from collections.abc import Callable

from transport.sealed.growth import AGAIN_S, BusyRate, LaneGrowth


def grown(rate_of: Callable[[int], float], most: int = 4, until_s: int = 60) -> tuple[LaneGrowth, list[int]]:
    """After so many busy seconds on a path of which ``rate_of`` says what n lanes reach."""
    growth = LaneGrowth(most)
    seen = [growth.lanes]
    for second in range(until_s):
        if growth.measured(float(second), rate_of(growth.lanes)):
            seen.append(growth.lanes)
    return growth, seen


def test_where_each_lane_carries_as_much_as_the_others_all_are_used() -> None:
    assert grown(lambda lanes: 10e6 * lanes)[1] == [1, 2, 3, 4]


def test_where_one_lane_fills_the_line_a_second_one_is_tried_and_given_up() -> None:
    growth, seen = grown(lambda lanes: 100e6)
    assert seen == [1, 2, 1]
    assert growth.lanes == 1


def test_it_stops_where_one_more_does_not_help() -> None:
    assert grown(lambda lanes: min(lanes, 2) * 10e6)[0].lanes == 2


def test_one_slow_second_decides_nothing() -> None:
    rates = iter([10e6, 10e6, 10e6, 1e6, 20e6, 1e6])
    growth = LaneGrowth(4)
    for second in range(6):
        growth.measured(float(second), next(rates))
    assert growth.lanes == 3


def test_a_path_that_has_changed_is_tried_again_after_ten_minutes() -> None:
    growth, _ = grown(lambda lanes: 100e6)
    later = AGAIN_S + 100
    changes = [growth.measured(later + second, 100e6) for second in range(3)]
    assert changes == [False, False, True]
    assert growth.lanes == 2


def test_there_are_never_more_than_allowed_nor_fewer_than_one() -> None:
    assert grown(lambda lanes: 10e6 * lanes, most=1)[1] == [1]
    assert set(grown(lambda lanes: 1e9 / lanes, until_s=5_000)[1]) == {1, 2}


def test_a_rate_is_that_of_whole_busy_seconds_with_the_same_lanes() -> None:
    busy = BusyRate()
    rates = [busy.looked(at / 4, 1, 1_000 * at, is_busy=True) for at in range(9)]
    assert [rate for rate in rates if rate is not None] == [32_000.0, 32_000.0]
    assert rates[4] == rates[8] == 32_000.0


def test_a_moment_without_anything_to_send_or_another_lane_begins_anew() -> None:
    for lanes, is_busy in ((1, False), (2, True)):
        busy = BusyRate()
        for at in range(4):
            assert busy.looked(at / 4, 1, 1_000 * at, is_busy=True) is None
        assert busy.looked(1.0, lanes, 4_000, is_busy=is_busy) is None
        assert busy.looked(1.25, lanes, 5_000, is_busy=True) is None
        assert busy.looked(1.75, lanes, 7_000, is_busy=True) is None


def test_what_a_lane_had_carried_that_is_gone_does_not_count_backwards() -> None:
    busy = BusyRate()
    assert busy.looked(0.0, 1, 1_000_000, is_busy=True) is None
    assert busy.looked(1.0, 1, 10, is_busy=True) is None, "the lane was made anew"
    assert busy.looked(2.0, 1, 1_010, is_busy=True) == 8_000.0
