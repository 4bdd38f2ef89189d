"""One open round: who is in it, whether they agree, and whom to leave out when they cannot meet."""

from __future__ import annotations

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


def test_a_pair_is_reported_once_whoever_says_so_and_strangers_are_in_none() -> None:
    current = opened(A, B, C)
    current.stuck.update({A: (D, A, B), B: (A,), D: (B,), C: (A,)})
    assert current.reported_pairs() == [(A, B), (A, C)]


def test_who_owns_no_chunks_needs_nothing_of_another_who_owns_none() -> None:
    current = opened(A, B, C, D)
    current.idle = frozenset((A, B))
    current.stuck.update({A: (B,), B: (B, C), C: (A,)})
    assert current.reports_of_idle() == [A]


def test_all_have_reported_once_only_the_accused_are_left() -> None:
    current = opened(A, B, C)
    current.stuck[A] = (C,)
    assert not current.all_have_reported()
    current.stuck[B] = (C,)
    assert current.all_have_reported()
    pair = opened(A, B)
    pair.stuck[A] = (B,)
    assert not pair.all_have_reported(), "one word of two says nothing"
