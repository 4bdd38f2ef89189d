"""Every kind of fault at once, over several seeds and methods: all invariants hold and the run ends."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.simulation.runner import simulate

METHODS = {
    "rounds": {"preset": "diloco"},
    "overlapped fragments": {"preset": "streaming", "num_fragments": 3, "delay": 4},
    "a quorum": {"preset": "async_diloco"},
    "pairs": {"preset": "noloco"},
    "two exchanges": {"preset": "dilocox"},
    "two exchanges of fragments": {
        "preset": "streaming",
        "num_fragments": 3,
        "delay": 4,
        "projection": "low_rank",
    },
}
UNTIL = {"until": "130s"}


def everything_breaks(method: dict[str, Any]) -> dict[str, Any]:
    near = {"step": "500ms", "step_jitter": 0.2, "spread": 0.2, "up": "200Mbps", "latency": "20ms"}
    far = {"step": "500ms", "up": "50Mbps", "down": "300Mbps", "latency": "40ms", "joins_at": "40s"}
    return {
        "name": "everything breaks",
        "run": {"rounds": 12, "min_peers": 2, "failure_timeout_s": 5.0, "grace_s": 20.0},
        "method": {"sync_every": 20, **method},
        "model": {"parameters": "20M", "tokens_per_step": "4k"},
        "peers": [{"name": "near", "count": 6, **near}, {"name": "far", "count": 2, **far}],
        "events": [
            {"do": "crash", "peers": "any", "every": "40s", "for": "15s", **UNTIL},
            {"do": "freeze", "peers": "any", "every": "50s", "for": "12s", **UNTIL},
            {"do": "crash", "peers": "host", "every": "80s", "for": "8s", **UNTIL},
            {"do": "partition", "peers": ["near-1", "near-2"], "every": "90s", "for": "20s", **UNTIL},
            {"do": "degrade", "peers": "any", "every": "50s", "for": "30s", "factor": 8.0, **UNTIL},
        ],
    }


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_everything_breaks_and_the_run_goes_on(kind: str, seed: int) -> None:
    report = simulate(everything_breaks(METHODS[kind]), seed=seed)
    assert not report.violations
    assert report.ended == "the run is finished"
    assert report.recoveries


@pytest.mark.parametrize("delay", [0, 5, 10])
def test_real_factors_of_two_exchanges_stay_equal_where_everything_breaks(delay: int) -> None:
    """S1 over real bases: the digests of everyone who holds a commit are compared."""
    broken = everything_breaks({"preset": "dilocox", "rank": 2, "sync_every": 10, "delay": delay})
    broken |= {
        "mode": "trained",
        "model": {"layers": 1, "heads": 2, "width": 16, "context": 16},
        "train": {"batch_size": 2, "warmup_steps": 1},
    }
    report = simulate(broken, seed=delay)
    assert not report.violations
    assert report.ended == "the run is finished"
    assert report.recoveries
    assert report.losses[-1][2] < report.losses[0][2]
