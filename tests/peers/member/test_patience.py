"""Whoever sends nothing, or a chunk now and then, is reported after a failure timeout; a slow link is not."""

from __future__ import annotations

import pytest

from peers.member.patience import Owing, Patience
from transport.limits import KIB, LIMITS, MIB

TIMEOUT_S, LONGEST_S, STEP_S = 10.0, 60.0, 0.5
PATIENCE = Patience(TIMEOUT_S, LONGEST_S, LIMITS)


def reported_after(
    chunk_bytes: int, num_members: int, every_s: float, num_owed: int, *, owes_parts: bool = True
) -> float | None:
    """When a member is reported of which a chunk comes so often; None if all that it owes came before."""
    now, came = 0.0, 0
    while came < num_owed:
        now += STEP_S
        while came < num_owed and (came + 1) * every_s <= now:
            came += 1
        if came == num_owed:
            return None
        owing = Owing(now, now - came * every_s, came, owes_parts)
        if PATIENCE.is_over(owing, chunk_bytes, num_members, cut=False):
            return now
    return None


@pytest.mark.parametrize("chunk_bytes", [1 * KIB, 64 * KIB, 192 * KIB])
def test_one_that_sends_nothing_costs_one_failure_timeout(chunk_bytes: int) -> None:
    after = reported_after(chunk_bytes, 4, 1e9, 16)
    assert after is not None
    assert TIMEOUT_S < after <= TIMEOUT_S + STEP_S


@pytest.mark.parametrize("chunk_bytes", [256 * KIB, 512 * KIB, 1 * MIB])
def test_of_a_chunk_that_takes_long_half_a_failure_timeout_is_left(chunk_bytes: int) -> None:
    chunk_s = 3 * chunk_bytes / 125_000
    after = reported_after(chunk_bytes, 4, 1e9, 16)
    assert after is not None
    assert TIMEOUT_S / 2 < after - chunk_s <= TIMEOUT_S + STEP_S


def test_large_chunks_do_not_make_it_wait_beyond_the_bound() -> None:
    after = reported_after(1 * MIB, 64, 1e9, 16)
    assert after is not None
    assert after <= LONGEST_S + STEP_S


@pytest.mark.parametrize("every_s", [60.0, 30.0, 11.0, 9.0, 5.0])
def test_a_chunk_now_and_then_prolongs_nothing(every_s: float) -> None:
    after = reported_after(16 * KIB, 4, every_s, 16)
    assert after is not None
    assert after <= TIMEOUT_S + 1.0


@pytest.mark.parametrize("chunk_bytes", [16 * KIB, 256 * KIB, 1 * MIB])
@pytest.mark.parametrize("num_members", [2, 4, 8])
def test_a_megabit_per_second_that_moves_steadily_is_waited_for(chunk_bytes: int, num_members: int) -> None:
    every_s = chunk_bytes * (num_members - 1) / 125_000
    assert reported_after(chunk_bytes, num_members, every_s, 64) is None


def test_in_gossip_one_that_has_not_begun_may_be_late_and_one_that_has_may_not() -> None:
    late = Owing(50.0, 50.0, 0, owes_parts=True, may_be_late=True)
    assert not PATIENCE.is_over(late, 1 * KIB, 2, cut=False)
    assert PATIENCE.is_over(late, 1 * KIB, 2, cut=True)
    begun = Owing(50.0, 40.0, 1, owes_parts=True, may_be_late=True)
    assert PATIENCE.is_over(begun, 1 * KIB, 2, cut=False)


def test_a_link_that_is_silent_gets_the_failure_timeout_only() -> None:
    owing = Owing(10.5, 10.5, 0, owes_parts=True)
    assert PATIENCE.is_over(owing, 1 * MIB, 8, cut=True)
    assert not PATIENCE.is_over(owing, 1 * MIB, 8, cut=False)


def test_whoever_may_wait_for_the_parts_of_another_gets_twice_the_time() -> None:
    owing = Owing(15.0, 15.0, 0, owes_parts=False)
    assert not PATIENCE.is_over(owing, 1 * KIB, 4, cut=False)
    assert PATIENCE.is_over(Owing(20.5, 20.5, 0, owes_parts=False), 1 * KIB, 4, cut=False)
