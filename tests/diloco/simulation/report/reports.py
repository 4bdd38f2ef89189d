"""A report made by hand, for the tests of what is made of one."""

from __future__ import annotations

from diloco.simulation.report.report import (
    Exchange,
    Mark,
    PeerReport,
    Recovery,
    RoundReport,
    SimulationReport,
    Span,
)

NASTY = "<script>\x1b[31m&"


def report_of(num_peers: int = 2, num_rounds: int = 2) -> SimulationReport:
    """A run of 100 s in which the peers are ever less busy."""
    peers = []
    for index in range(num_peers):
        busy = 90.0 - 80.0 * index / max(1, num_peers - 1)
        peers.append(
            PeerReport(
                f"p-{index + 1}",
                "here",
                steps=10,
                seconds={"compute": busy, "wait": 100.0 - busy},
                utilization=busy / 100.0,
                sent={"exchange": 2_000_000, "control": 1000},
                received={"exchange": 3_000_000},
                spans=[Span("compute", 0.0, busy), Span("wait", busy, 100.0)],
                exchanges=[Exchange(0, 10.0, 12.0, "committed")],
            )
        )
    rounds = [RoundReport(i + 1, 0, num_peers, 1, 10.0 * i, 1.0, 2.0, 0.5) for i in range(num_rounds)]
    return SimulationReport(
        "a scenario",
        "what one learns",
        7,
        "timed",
        "diloco",
        1000,
        "the run is finished",
        seconds=100.0,
        utilization=0.5,
        tokens_per_s=50.0,
        ideal_tokens_per_s=100.0,
        tokens=5000,
        tokens_applied=4000,
        peers=peers,
        rounds=rounds,
        marks=[Mark(11.0, "p-1", "crash", True), Mark(12.0, "", "the round is given up", False)],
        recoveries=[Recovery(11.0, "crash", "p-1", 4.0, None, 6.5)],
    )
