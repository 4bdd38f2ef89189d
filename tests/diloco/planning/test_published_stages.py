"""Two papers' numbers on models in stages come out of one formula each."""

from __future__ import annotations

import pytest

from diloco.planning.published_stages import (
    DILOCOX,
    DILOCOX_PUBLISHED,
    DILOCOX_SPEEDUP,
    ROUND_TRIPS_MS,
    SWARM,
    SwarmRow,
)
from diloco.simulation.runner import simulate


@pytest.mark.parametrize("row", SWARM, ids=lambda row: row.name)
def test_two_numbers_give_a_row_of_swarm_within_4_per_cent(row: SwarmRow) -> None:
    for rtt_ms, published in zip(ROUND_TRIPS_MS, row.published, strict=True):
        near = 1e-9 if rtt_ms in (0, 100) else 0.04
        assert row.utilization(rtt_ms) == pytest.approx(published, rel=near)


def test_the_numbers_of_the_rows() -> None:
    assert [round(row.compute_ms, 1) for row in SWARM] == [3.3, 27.8, 225.7, 355.5]


@pytest.mark.parametrize("row", SWARM, ids=lambda row: row.name)
def test_with_a_window_latency_leaves_and_bandwidth_stays(row: SwarmRow) -> None:
    line = min(100.0, 100 * row.compute_ms / row.line_ms)
    for rtt_ms in ROUND_TRIPS_MS:
        assert row.utilization(rtt_ms, row.window(rtt_ms)) == pytest.approx(line)


def test_the_speedup_is_how_long_an_all_reduce_waits() -> None:
    assert DILOCOX.all_reduce_s == pytest.approx(3424)
    assert DILOCOX.step_s == pytest.approx(8.79, abs=0.005)
    assert DILOCOX.speedup == pytest.approx(390, abs=1)
    assert DILOCOX.all_reduce_tokens_per_s == pytest.approx(DILOCOX_PUBLISHED["all-reduce"], rel=0.09)
    assert DILOCOX.speedup == pytest.approx(DILOCOX_SPEEDUP, rel=0.1)
    assert DILOCOX.share_of_peak == pytest.approx(0.048, abs=5e-4)


def test_the_ablations_follow_from_what_they_imply() -> None:
    sync_every = DILOCOX.sync_every_for(DILOCOX_PUBLISHED["no compression"])
    exchange_s = DILOCOX.exchange_s_for(sync_every, DILOCOX_PUBLISHED["no overlap"])
    whole_s = sync_every * DILOCOX.step_s
    assert sync_every * DILOCOX.step_tokens / max(whole_s, DILOCOX.all_reduce_s) == pytest.approx(1168)
    assert sync_every * DILOCOX.step_tokens / (whole_s + exchange_s) == pytest.approx(2197)
    assert exchange_s < whole_s  # so it can be hidden


def test_the_simulator_agrees_on_the_all_reduce() -> None:
    """Each site is one peer here: the exchanges of its stages share the line as one of all does."""
    report = simulate(
        {
            "name": "dilocox, all-reduce",
            "end": "20h",
            "run": {"rounds": 8, "failure_timeout_s": 600.0, "grace_s": 86_400.0},
            "method": {"preset": "diloco", "sync_every": 1, "codec": "fp32"},
            "model": {"parameters": "107B", "tokens_per_step": "16384"},
            "host": {"up": "10Gbps", "region": "east"},
            "peers": [
                {"name": name, "count": 1, "region": name, "step": f"{DILOCOX.step_s}s", "up": "100Gbps"}
                for name in ("east", "west")
            ],
            "links": [{"between": ["east", "west"], "rtt": "30ms", "rate": "1Gbps"}],
        }
    )
    assert report.tokens_applied / report.seconds == pytest.approx(DILOCOX.all_reduce_tokens_per_s, rel=0.05)
