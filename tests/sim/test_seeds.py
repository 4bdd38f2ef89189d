"""Hundreds of simulated swarms under faults: no invariant breaks, and every one becomes whole again.

Each seed is a fault phase that checks safety and a quiet phase that must converge (S1-S9, S12-S14,
L1-L4, L7, X1). A failure prints the command that replays it.
"""

from __future__ import annotations

import pytest

from tests.sim.faults import FULL_DISK, KINDS
from tests.sim.run import Outcome, counts_in, failures_in, outcomes_of, run_seed

NUM_SEEDS = 160
FAILED_ONCE = (7, 198, 203, 224, 10, 11, 14, 28, 35, 36, 38, 53, 61, 80, 81, 90, 101, 120, 62, 104, 145, 174)
"""Every seed that ever failed, kept for ever."""


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome | str]:
    return outcomes_of(sorted({*range(NUM_SEEDS), *FAILED_ONCE}))


@pytest.mark.timeout(900)
def test_every_seed_keeps_all_invariants_and_converges(outcomes: dict[int, Outcome | str]) -> None:
    failures = failures_in(outcomes)
    assert not failures, failures


@pytest.mark.timeout(600)
def test_seeds_whose_outer_steps_are_two_exchanges_keep_all_invariants_and_converge_too() -> None:
    failures = failures_in(outcomes_of(list(range(20)), exchanges=2))
    assert not failures, failures


def test_every_kind_of_fault_fires_and_every_kind_of_recovery_happens(
    outcomes: dict[int, Outcome | str],
) -> None:
    fired, seen = counts_in(outcomes)
    rare = {kind: fired[kind] for kind in (*KINDS, FULL_DISK) if fired[kind] < 50}
    assert not rare, f"too rare: {rare}"
    recoveries = ("repaired", "set_aside", "aborted", "poisoned", "proved_wrong", "outlier", "needs_state")
    recoveries += ("superseded", "store_recovered")
    unseen = [name for name in recoveries if seen[name] < 10]
    assert not unseen, f"never reached: {unseen}"
    assert seen["restored"] >= 1


@pytest.mark.parametrize("seed", [3, 25, 38])
def test_the_same_seed_gives_the_same_trace_twice(seed: int) -> None:
    first, second = run_seed(seed), run_seed(seed)
    assert first.trace_hash == second.trace_hash
    assert first.num_events == second.num_events


def test_another_seed_gives_another_trace() -> None:
    assert run_seed(3).trace_hash != run_seed(4).trace_hash
