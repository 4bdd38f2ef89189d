"""Many seeds come in order, whatever process ran them, and shrinking keeps just the faults that matter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diloco.simulation.faults import Fault, faults_of
from diloco.simulation.scenario import Scenario, parse_scenario
from diloco.simulation.sweep import SeedOutcome, outcome_of, run_seeds, shrink

MANY = parse_scenario(
    {
        "name": "ten crashes",
        "run": {"rounds": 2},
        "method": {"preset": "diloco", "sync_every": 5},
        "model": {"parameters": "1M"},
        "peers": [{"name": "p", "count": 10, "step": "1s", "step_jitter": 0.1}],
        "events": [{"do": "crash", "peers": f"p-{i + 1}", "at": i, "for": 1} for i in range(10)],
    }
)


def broken_by(needed: set[int], problem: str, asked: list[list[int]]) -> object:
    """A run that breaks if all the needed faults are in it."""
    every = faults_of(MANY)

    def run(scenario: Scenario, seed: int, faults: Sequence[Fault]) -> SeedOutcome:
        asked.append(found := [every.index(fault) for fault in faults])
        return SeedOutcome(seed, 0, 0.0, 0.0, 0.0, problem if needed <= set(found) else "", "")

    return run


@pytest.mark.parametrize("needed", [set(), {0}, {9}, {2, 7}, {0, 4, 9}, set(range(10))])
def test_shrinking_leaves_exactly_the_faults_that_are_needed(needed: set[int]) -> None:
    asked: list[list[int]] = []
    run = broken_by(needed, "invariant S1 at 7.100 s: other words", asked)
    assert shrink(MANY, 0, "invariant S1 at 3.200 s: words", run) == sorted(needed)
    assert len(asked) < 60


def test_another_invariant_or_error_is_not_the_same_problem() -> None:
    everything = list(range(10))
    for problem, other in [
        ("invariant S1 at 1.000 s: x", "invariant S2 at 1.000 s: x"),
        ("KeyError: 'x'", "ValueError: 'x'"),
    ]:
        assert shrink(MANY, 0, problem, broken_by(set(), other, [])) == everything
    assert shrink(MANY, 0, "KeyError: 'x'", broken_by({3}, "KeyError: 'another'", [])) == [3]


def test_seeds_come_in_order_and_as_each_is_by_itself() -> None:
    outcomes = list(run_seeds(MANY, range(3, 6), processes=2))
    assert [outcome.seed for outcome in outcomes] == [3, 4, 5]
    assert outcomes == [outcome_of(MANY, seed) for seed in (3, 4, 5)]
    assert [outcome.problem for outcome in outcomes] == ["", "", ""]
    assert len({outcome.trace_hash for outcome in outcomes}) == 3
