"""An honest peer that joins a run of staggered fragments costs the others nothing that lasts (L3)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from diloco.simulation import worker
from diloco.simulation.report.report import SimulationReport
from diloco.simulation.runner import simulate
from diloco.simulation.scenario import parse_scenario

STEP_S = 0.25


def run_with_a_joiner(
    num_fragments: int, joins_at: float, delay: int = 0, *, sync_every: int = 20, rounds: int = 12
) -> SimulationReport:
    """Four peers of one pace, and a fifth that comes later."""
    step = {"step": f"{STEP_S}s", "spread": 0.05, "up": "100Mbps", "latency": "10ms"}
    method = {"preset": "local_sgd", "sync_every": sync_every, "num_fragments": num_fragments, "delay": delay}
    scenario = {
        "name": "a joiner",
        "mode": "timed",
        "seed": 1,
        "run": {"rounds": rounds, "min_peers": 2, "failure_timeout_s": 5.0, "grace_s": 5.0},
        "method": method,
        "model": {"parameters": 900, "tokens_per_step": 64},
        "peers": [
            {"name": "early", "count": 4, **step},
            {"name": "late", "joins_at": joins_at, **step},
        ],
    }
    return simulate(parse_scenario(scenario))


def between_commits(report: SimulationReport) -> list[tuple[float, float, int]]:
    """When each commit but the first was everywhere, the seconds since the one before, and its members."""
    pairs = pairwise(report.rounds)
    return [(after.end_s, after.end_s - before.end_s, after.participants) for before, after in pairs]


# Offers of the newcomer fall differently between the others' with each of these times.
@pytest.mark.parametrize("joins_at", [15.0, 17.0, 18.0, 19.0])
@pytest.mark.parametrize(("num_fragments", "delay"), [(1, 0), (2, 0), (4, 0), (2, 2), (4, 2)])
def test_who_joins_comes_to_offer_each_fragment_when_the_others_do(
    num_fragments: int, delay: int, joins_at: float
) -> None:
    report = run_with_a_joiner(num_fragments, joins_at, delay)
    assert report.violations == []
    rounds = between_commits(report)
    before = max(seconds for at, seconds, _ in rounds if at < joins_at)
    with_it = [seconds for at, seconds, members in rounds if at > joins_at and members == 5]
    assert len(with_it) >= 7 * num_fragments
    # It may be late for its first round by what it missed of a step; from then on it is in step.
    assert with_it[0] < before + 2 * STEP_S
    assert max(with_it[1:]) < before + STEP_S


# A round takes two seconds, and of four fragments one commits every half a second.
@pytest.mark.parametrize(("num_fragments", "names_s"), [(1, 0.3), (1, 3.0), (4, 3.0)])
def test_who_joins_gets_the_state_though_hashing_it_takes_longer_than_rounds_do(
    num_fragments: int, names_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "NAMES_S", names_s)
    report = run_with_a_joiner(num_fragments, 15.0, sync_every=8, rounds=20)
    assert report.violations == []
    with_it = [members for _, _, members in between_commits(report) if members == 5]
    assert len(with_it) >= 5 * num_fragments
