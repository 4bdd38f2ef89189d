"""One open round: who is in it, whether they agree, and whom to leave out when they cannot meet."""

from __future__ import annotations

import math

import pytest

from peers.coordinator.open_round import OpenRound

A, B, C, D = b"a", b"b", b"c", b"d"


def opened(*members: bytes) -> OpenRound:
    weights = tuple(float(i + 1) for i in range(len(members)))
    return OpenRound(9, 0, b"base", 256, members, weights, opened_at=1.0)


def test_members_agree_once_all_that_are_left_hold_the_same() -> None:
    current = opened(A, B, C)
    current.done.update({A: b"1", B: b"1"})
    assert current.agreement() is None
    current.lost.add(C)
    assert (current.agreement(), current.members, current.lost_indexes()) == (b"1", (A, B), (2,))
    current.done[B] = b"2"
    assert (current.agreement(), current.differ()) == (None, True)


def test_nobody_left_agrees_on_nothing() -> None:
    current = opened(A)
    current.lost.add(A)
    assert current.agreement() is None


def test_another_attempt_counts_nothing_of_the_one_before_and_keeps_weights() -> None:
    current = opened(A, B)
    current.done[A], current.stuck[B], current.judge_at = b"1", (A,), 3.0
    current.next_attempt(5.0)
    assert (current.attempt, current.attempt_at, current.judge_at) == (1, 5.0, None)
    assert (current.done, current.stuck, current.weight_of(B)) == ({}, {}, 2.0)


def test_whoever_differs_from_more_than_half_dissents_and_half_is_not_enough() -> None:
    current = opened(A, B, C)
    current.done.update({A: b"1", B: b"2", C: b"1"})
    assert current.dissenters() == [B]
    current.lost.add(C)
    assert current.dissenters() == []


def test_the_one_in_most_reports_is_set_aside_alone() -> None:
    current = opened(A, B, C, D)
    current.stuck.update({A: (C,), B: (C,), C: (D,)})
    assert current.whom_to_set_aside(dict.fromkeys(current.members, 0.0), {A: 1, B: 2, C: 3, D: 4}, 10.0) == [
        C
    ]


def test_of_two_in_equal_reports_the_longest_unheard_goes_then_whoever_came_last() -> None:
    current = opened(A, B)
    current.stuck[A] = (B,)
    order = {A: 1, B: 2}
    assert current.whom_to_set_aside({A: 9.0, B: 1.0}, order, 10.0) == [A]
    assert current.whom_to_set_aside({A: math.inf, B: 1.0}, order, 10.0) == [A], "it has no link"


@pytest.mark.parametrize("heard_before_s", [0.0, 0.3, 0.9, 1.1, 1.9, 2.4])
def test_when_a_live_link_was_heard_last_makes_no_difference(heard_before_s: float) -> None:
    current = opened(A, B)
    current.stuck[A] = (B,)
    for silent_s in ({A: heard_before_s, B: 0.0}, {A: 2.4, B: heard_before_s}):
        assert current.whom_to_set_aside(silent_s, {A: 1, B: 2}, 10.0) == [B]


def test_reports_about_strangers_set_nobody_aside() -> None:
    current = opened(A, B)
    current.stuck.update({A: (D, A), D: (B,)})
    assert current.whom_to_set_aside(dict.fromkeys((A, B), 0.0), {A: 1, B: 2}, 10.0) == []


def test_all_have_reported_once_only_the_accused_are_left() -> None:
    current = opened(A, B, C)
    current.stuck[A] = (C,)
    assert not current.all_have_reported()
    current.stuck[B] = (C,)
    assert current.all_have_reported()
    pair = opened(A, B)
    pair.stuck[A] = (B,)
    assert not pair.all_have_reported(), "one word of two says nothing"
