"""Does `diloco simulate` tell the truth? One scenario with real processes and in virtual time, side by side.

Four workers with access links of 100 Mbit/s and 40 ms between any two; one is killed (SIGKILL) after some
rounds, a new one joins after some more. The real ones are processes over CURVE and TCP, each byte through two
emulated links (emulate_link.py), whose inner steps are sleeps; the simulated ones are the scenario below.
Seconds per round and utilization are to agree within 10 %: exit code 1 if they do not.

    python scripts/truth_simulate.py
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diloco
from diloco.settings import parse_settings
from diloco.simulation.report.report import SimulationReport
from diloco.simulation.runner import simulate
from peers.protocol.traces import CommittedTrace
from transport.effects import Trace

WORKERS = 4
CRASH_AT, JOIN_AT, ROUNDS = 4, 8, 14
CRASH_DELAY_S = 1.0
"""The worker dies so long after the commit: in the middle of its inner steps."""
STEP_S, SYNC_EVERY, PARAMETERS = 0.1, 40, 4_000_000
RATE_MBPS, RTT_MS = 100, 40
RUN = {"rounds": ROUNDS, "min_peers": 2, "failure_timeout_s": 4.0, "grace_s": 30.0}
METHOD = {"preset": "diloco", "sync_every": SYNC_EVERY, "codec": "fp32"}


def scenario() -> dict[str, Any]:
    """The same as a scenario. Half of a round trip's latency is each end's, and each frame takes both."""
    link = {"up": f"{RATE_MBPS}Mbps", "latency": f"{RTT_MS / 4}ms", "jitter": 0.0}
    peer = {**link, "step": STEP_S}
    return {
        "name": "truth",
        "run": RUN,
        "method": METHOD,
        "model": {"parameters": PARAMETERS, "tokens_per_step": 1000},
        "host": {"up": "10Gbps", "latency": 0.0},
        "peers": [
            {"name": "w", "count": WORKERS, **peer},
            {"name": "late", **peer, "joins_at": "event"},
        ],
        "events": [
            {"do": "crash", "peers": "w-2", "round": CRASH_AT, "after": CRASH_DELAY_S},
            {"do": "join", "peers": "late", "round": JOIN_AT, "after": JOIN_DELAY_S},
        ],
    }


JOIN_DELAY_S = 3.0
"""A Python process takes so long to import torch and knock; it is started that much earlier for real."""


@dataclass(slots=True)
class Told:
    """What a run came to."""

    commits: list[float]
    """When each round was committed, from the first on."""
    utilization: float

    def seconds_of(self, first: int, last: int) -> float:
        """Mean seconds per round between two commits, counted from 1."""
        return (self.commits[last - 1] - self.commits[first - 1]) / (last - first)


def real() -> Told:
    """With processes."""
    settings = parse_settings({"run": {"name": "truth", **RUN}, "method": METHOD}, "truth")
    commits: list[float] = []
    changed = threading.Condition()

    def on_trace(trace: Trace) -> None:
        if isinstance(trace, CommittedTrace):
            with changed:
                commits.append(time.monotonic())
                changed.notify_all()

    def wait_for(count: int) -> None:
        with changed:
            if not changed.wait_for(lambda: len(commits) >= count, timeout=300.0):
                raise RuntimeError(f"{len(commits)} commits in five minutes")

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with diloco.host(
            settings, listen="tcp://127.0.0.1:0", state=home / "host", on_trace=on_trace
        ) as swarm:
            assert swarm.ticket is not None
            (home / "ticket").write_text(str(swarm.ticket))
            workers = {f"w{i}": start(home, f"w{i}") for i in range(1, WORKERS + 1)}
            wait_for(CRASH_AT)
            time.sleep(CRASH_DELAY_S)
            workers["w2"].send_signal(signal.SIGKILL)
            wait_for(JOIN_AT)
            workers["late"] = start(home, "late")
            wait_for(ROUNDS)
            for name, process in workers.items():
                if process.wait(60.0) and name != "w2":
                    raise RuntimeError(f"{name} ended with {process.returncode}")
        logs = [[json.loads(line) for line in path.read_text().splitlines()] for path in home.glob("*.jsonl")]
    return Told(commits, utilization_of(logs, commits[0]))


def start(home: Path, name: str) -> subprocess.Popen[bytes]:
    """One worker process."""
    command = [sys.executable, str(Path(__file__).with_name("truth_worker.py")), "--name", name]
    command += ["--ticket", str(home / "ticket"), "--log", str(home / f"{name}.jsonl")]
    command += ["--parameters", str(PARAMETERS), "--step", str(STEP_S)]
    command += ["--rate", str(RATE_MBPS * 1e6), "--rtt", str(RTT_MS / 2e3)]
    return subprocess.Popen(command)


def utilization_of(logs: list[list[dict[str, Any]]], since: float) -> float:
    """Share of the time from the first commit to its last one that workers which lived to the end of theirs
    computed: what they did not wait."""
    shares = []
    for lines in logs:
        commits = [line for line in lines if line["what"] == "commit" and line["at"] >= since - 1.0]
        span = commits[-1]["at"] - commits[0]["at"]
        shares.append((1 - (commits[-1]["waited_s"] - commits[0]["waited_s"]) / span, span))
    return sum(share * span for share, span in shares) / sum(span for _, span in shares)


def simulated() -> Told:
    """In virtual time."""
    report = simulate(scenario())
    commits = [each.started_s + each.gather_s + each.exchange_s for each in report.rounds]
    return Told(commits, simulated_utilization(report))


def simulated_utilization(report: SimulationReport) -> float:
    """As `utilization_of`: between a worker's first and last commit."""
    computed = present = 0.0
    for peer in report.peers:
        ends = [each.end_s for each in peer.exchanges if each.outcome == "committed"]
        first, last = ends[0], ends[-1]
        present += last - first
        for span in peer.spans:
            if span.activity == "compute":
                computed += max(0.0, min(span.end_s, last) - max(span.start_s, first))
    return computed / present


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    found, told = real(), simulated()
    rows = [
        ("seconds per round, four workers", 1, CRASH_AT),
        ("the round in which one dies", CRASH_AT, CRASH_AT + 1),
        ("seconds per round, three workers", CRASH_AT + 1, JOIN_AT),
        ("seconds per round, one joins", JOIN_AT, ROUNDS),
        ("seconds per round, all", 1, ROUNDS),
    ]
    values = [(name, found.seconds_of(a, b), told.seconds_of(a, b)) for name, a, b in rows]
    values.append(("compute utilization", found.utilization, told.utilization))
    print(f"{'':34} {'real':>8} {'simulated':>10} {'off by':>8}")
    for name, ours, theirs in values:
        print(f"{name:34} {ours:8.3f} {theirs:10.3f} {theirs / ours - 1:8.1%}")
    off = [abs(theirs / ours - 1) for name, ours, theirs in values if name != rows[1][0]]
    print(f"off by {max(off):.1%} at most, {statistics.fmean(off):.1%} on average")
    sys.exit(1 if max(off) > 0.1 else 0)


if __name__ == "__main__":
    main()
