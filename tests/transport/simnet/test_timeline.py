"""Virtual time: events come by time and then in the order in which they were pushed."""

from __future__ import annotations

import pytest

from transport.simnet.timeline import Timeline


def test_events_come_by_time_and_those_of_one_instant_as_they_were_pushed() -> None:
    timeline, seen = Timeline(), list[tuple[int, str]]()

    def note(name: str) -> None:
        seen.append((timeline.now_ns, name))

    for at, name in ((20, "c"), (10, "a"), (20, "d"), (10, "b"), (31, "late")):
        timeline.push(at, note, name)
    assert timeline.run(30) is False
    assert seen == [(10, "a"), (10, "b"), (20, "c"), (20, "d")]
    assert (timeline.now_ns, timeline.num_events, len(timeline)) == (30, 4, 1)


def test_what_an_event_pushes_at_its_own_instant_still_comes() -> None:
    timeline, seen = Timeline(), list[int]()
    timeline.push(5, lambda: timeline.push(timeline.now_ns, lambda: seen.append(timeline.now_ns)))
    timeline.run(5)
    assert seen == [5]


def test_it_stops_at_the_event_after_which_it_is_done() -> None:
    timeline, seen = Timeline(), list[int]()
    for at in (1, 2, 3):
        timeline.push(at, seen.append, at)
    assert timeline.run(9, lambda: len(seen) == 2) is True
    assert (seen, timeline.now_ns) == ([1, 2], 2)


def test_a_storm_at_one_instant_is_an_error() -> None:
    timeline = Timeline()

    def again() -> None:
        timeline.push(timeline.now_ns, again)

    timeline.push(7, again)
    with pytest.raises(AssertionError, match="events at 7 ns"):
        timeline.run(8)
