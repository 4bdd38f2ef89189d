"""Does a pipeline of real processes do what the protocol does under virtual time, and the formula says?

Three stages of two replicas, each a process whose every byte crosses its own emulated access line
(emulate_link.py), with parts that compute by waiting; a replica of the middle stage is killed (SIGKILL) and
another one joins. Utilization is the share of the time between two of a replica's inner steps in which its
part waits; beside it the same stages made of production nodes under virtual time, and what the formula says
(diloco.planning.stages), which knows of no rounds. Real and virtual are to agree within 7 %: exit code 1 if
they do not, or if a count is wrong.

    python scripts/truth_pipeline.py
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fork_server import fork_server
from kill_stages import Host, Told
from stage_ledger import judge
from stage_worker import WIDTH, Replica, work

import diloco
from diloco.planning.stages import StageTimes
from diloco.settings import RunSettings

STAGES, REPLICAS, QUOTA, WINDOW = 3, 2, 16, 16
FORWARD_S, BACKWARD_S = 0.12, 0.24
ROWS = 1024
BOUNDARY_BYTES = ROWS * WIDTH * 4
RATE_BPS, RTT_S = 10e6, 0.1
QUIET_S = 45.0
MOST_OFF = 0.07
SETTINGS = {
    "run": {"name": "truth", "rounds": 10**6, "min_peers": 1, "failure_timeout_s": 4.0, "grace_s": 10.0},
    "method": {"preset": "diloco", "sync_every": 8, "codec": "int8"},
    "pipeline": {
        "stages": STAGES,
        "microbatch": 1,
        "quota": QUOTA,
        "window": WINDOW,
        "wiring": "lines",
        "activations": "fp32",
        "recompute": False,
    },
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Some quiet seconds."""

    utilization: float
    per_s: float
    """Microbatches that a stage counts."""


def times() -> StageTimes:
    """What both sides are given. Half of a round trip is that of each end's line."""
    c = BOUNDARY_BYTES * 8 / RATE_BPS
    return StageTimes(STAGES, FORWARD_S, BACKWARD_S, RTT_S / 2, c, c)


def real(folder: Path) -> tuple[Measured, Measured, int, list[str]]:
    """Before a kill and after a joiner; partial microbatches; what is broken."""
    host, told, context = Host(), Told(folder), fork_server("stage_worker")
    processes: dict[str, Any] = {}
    settings = RunSettings.model_validate(SETTINGS)
    with diloco.host(
        settings, listen="tcp://127.0.0.1:0", state=folder / "host", on_trace=host.on_trace
    ) as at:

        def start(name: str, stage: int) -> None:
            replica = Replica(
                str(folder),
                at.ticket,
                name,
                os.getpid(),
                FORWARD_S,
                BACKWARD_S,
                wish=stage,
                rows=ROWS,
                rate_bps=RATE_BPS,
                rtt_s=RTT_S / 2,
            )
            processes[name] = context.Process(target=work, args=(replica,))
            processes[name].start()

        try:
            for number in range(STAGES * REPLICAS):
                start(f"r{number}", number % STAGES)
            wait_for_steps(told, [f"r{number}" for number in range(STAGES * REPLICAS)])
            before = quiet(told)
            processes.pop("r1").kill()
            give_up = time.monotonic() + 60.0
            while len(host.gone) < 1 and time.monotonic() < give_up:
                time.sleep(0.2)
            start("late", 1)
            wait_for_steps(told, ["late"])
            after = quiet(told)
            told.read()
            found = judge(told.lines, list(host.commits), STAGES, WINDOW, set(host.gone))
        finally:
            for process in processes.values():
                process.kill()
                process.join()
    wrong = [f"{a} tokens counted, {b} expected" for a, b in zip(*sums(found), strict=True) if a != b]
    return before, after, found.num("partial"), found.broken + wrong


def sums(found: Any) -> tuple[list[int], list[int]]:
    """By stage, counted and expected."""
    return list(found.counted.values()), list(found.expected.values())


def wait_for_steps(told: Told, names: list[str], most_s: float = 180.0) -> None:
    """Until each of them has taken three inner steps: lines are open, and windows full."""
    give_up = time.monotonic() + most_s
    while True:
        told.read()
        counts = [
            sum(line["what"] == "Stepped" and bool(line["of"]) for line in told.lines if line["name"] == name)
            for name in names
        ]
        if min(counts) >= 3:
            return
        if time.monotonic() > give_up:
            steps = dict(zip(names, counts, strict=True))
            raise SystemExit(f"truth_pipeline: after {most_s:.0f} s steps are {steps}")
        time.sleep(0.5)


def quiet(told: Told) -> Measured:
    """What replicas did for a while, between whole inner steps."""
    since = time.monotonic()
    time.sleep(QUIET_S)
    told.read()
    steps: dict[str, list[tuple[float, int]]] = {}
    for line in told.lines:
        if line["what"] == "Stepped" and line["at"] > since:
            steps.setdefault(line["name"], []).append((line["at"], len(line["of"])))
    shares, speeds = [], []
    for each in steps.values():
        span, count = each[-1][0] - each[0][0], sum(num for _, num in each[1:])
        shares.append(count * (FORWARD_S + BACKWARD_S) / span)
        speeds.append(count / span)
    return Measured(statistics.fmean(shares), statistics.fmean(speeds) * len(speeds) / STAGES)


def simulated() -> Measured:
    """The same stages and lines of production nodes, under virtual time."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.diloco.planning.staged_swarm import StagedEngine, StageWorker

    engine = StagedEngine(times(), REPLICAS, QUOTA, rounds=4)
    engine.begin()
    engine.run(1e5, lambda: engine.host.coordinator is not None and engine.host.coordinator.finished)
    workers = [each for each in engine.workers.values() if isinstance(each, StageWorker)]
    utilization = statistics.fmean(each.busy_s / engine.net.now for each in workers)
    return Measured(utilization, utilization / times().compute_s * REPLICAS)


def main(arguments: list[str] | None = None) -> bool:
    """Whether they agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    by_formula = times().utilization(QUOTA)
    virtual = simulated()
    with tempfile.TemporaryDirectory() as folder:
        before, after, partial, broken = real(Path(folder))
    speed = by_formula / (FORWARD_S + BACKWARD_S) * REPLICAS
    rows = [
        ("utilization, all there", before.utilization, virtual.utilization, by_formula),
        ("utilization, one died and one joined", after.utilization, virtual.utilization, by_formula),
        ("microbatches per second, all there", before.per_s, virtual.per_s, speed),
        ("microbatches per second, one died and one joined", after.per_s, virtual.per_s, speed),
    ]
    print(f"{'':44}{'real':>8}{'virtual':>9}{'off by':>8}{'formula':>9}{'off by':>8}")
    for name, found, theirs, told in rows:
        print(
            f"{name:44}{found:8.3f}{theirs:9.3f}{theirs / found - 1:8.1%}{told:9.3f}{told / found - 1:8.1%}"
        )
    print(f"{partial} partial, at most {REPLICAS * WINDOW} by the windows; load {os.getloadavg()[0]:.0f}")
    for each in broken:
        print(f"BROKEN {each}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    off = max(abs(theirs / found - 1) for _, found, theirs, _ in rows)
    return off <= MOST_OFF and partial <= REPLICAS * WINDOW and not broken


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # it leaves no process behind
    sys.exit(not main())
