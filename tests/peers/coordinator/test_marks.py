"""Pairs that are marked: for how long, and when that is forgotten."""

from __future__ import annotations

from peers.coordinator.marks import FORGIVEN_AFTER, MAX_POWER, Marks

A, B, C = b"a", b"b", b"c"


def test_a_pair_is_marked_for_longer_each_time_up_to_a_bound() -> None:
    marks, index, lasted = Marks(first=16), 0, []
    for _ in range(8):
        marks.add((A, B), index)
        lasted.append(marks.until((A, B)) - index)
        assert marks.holds((A, B), marks.until((A, B)) - 1)
        index = marks.until((A, B))
        assert not marks.holds((A, B), index)
    assert lasted == [16, 32, 64, 128, 256, 512, 1024, 1024]
    assert max(lasted) == 1 << MAX_POWER


def test_partners_are_known_after_the_mark_has_ended_until_it_is_forgiven() -> None:
    marks = Marks(first=16)
    marks.add((A, B), 0)
    marks.add((C, A), 0)
    assert marks.partners(A, 16 + FORGIVEN_AFTER - 1) == {B, C}
    assert marks.live(16) == []
    assert marks.partners(A, 16 + FORGIVEN_AFTER) == set()
    assert marks.times((A, B)) == 0


def test_the_one_that_ends_first_makes_room() -> None:
    marks = Marks(first=2, max_pairs=2)
    marks.add((A, B), 5)
    marks.add((A, C), 0)
    marks.add((B, C), 1)
    assert marks.live(1) == [(A, B), (B, C)]


def test_one_that_is_out_for_good_is_in_no_pair() -> None:
    marks = Marks(first=2)
    marks.add((A, B), 0)
    marks.add((B, C), 0)
    marks.forget(A)
    assert marks.live(0) == [(B, C)]
