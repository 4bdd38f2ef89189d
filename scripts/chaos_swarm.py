"""A real swarm in which much goes wrong: processes die and stop, lines break, the host comes back.

A host and workers are processes on loopback, each behind an emulated line. Faults are drawn from the seed
(chaos_faults.py), then all is healed and everyone must be in one commit. What the host's journal and the
workers tell is judged by an oracle that recomputes every mean (chaos_oracle.py).

    scripts/chaos --minutes 5 --peers 8 --seed 1
"""

from __future__ import annotations

import argparse
import math
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from chaos_faults import KINDS, Fault, draw
from chaos_injector import Injector
from chaos_oracle import STANDSTILL, commit_times, judge, recoveries
from chaos_processes import Processes, wait_until
from chaos_story import Story, Verdict
from chaos_usage import (
    DESCRIPTORS,
    GROWN,
    MEMORY,
    RESTING_DESCRIPTORS,
    RESTING_MEMORY,
    RESTING_THREADS,
    THREADS,
)

_START_S = 600.0
_QUIET_S = 300.0
"""Until all are in one commit, before the faults and after them; a busy machine is slow."""
_REST_S = 1.5
"""Before the faults and after them, to compare what processes take."""
_BOUNDS = {
    STANDSTILL: 180.0,
    MEMORY: 800.0,
    GROWN: 64.0,
    RESTING_MEMORY: 32.0,
    THREADS: 24.0,
    RESTING_THREADS: 2.0,
    RESTING_DESCRIPTORS: 6.0,
}


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    story: Story
    verdict: Verdict
    faults: list[tuple[str, str, float]] = field(default_factory=list)
    """Kind, victim, and from when on a commit is waited for."""
    skipped: int = 0


def run_chaos(folder: Path, minutes: float, peers: int, faults: Sequence[Fault]) -> Outcome:
    """A swarm under faults for so long, and what the oracle says."""
    with Processes(folder, peers, elements=2500 * peers, step_s=0.08) as processes:
        processes.start_host()
        if not wait_until(lambda: processes.host_listens, _START_S):
            raise SystemExit("chaos: the host does not start")
        for column in range(peers):
            processes.start(column)
        chaos = Injector(processes)
        if not chaos.wait_for_everyone(_START_S):
            raise SystemExit(f"chaos: not everyone came into one commit in the beginning: {chaos.broken}")
        rests = [chaos.rest(_REST_S)]
        began = time.monotonic()
        chaos.run(faults, began + 60 * minutes, began)
        chaos.heal()
        if not chaos.wait_for_everyone(_QUIET_S):
            chaos.broken.append(f"L1: not everyone was in one commit {_QUIET_S:.0f} s after the last fault")
        rests.append(chaos.rest(_REST_S))
        processes.kill_host()
        processes.told.read()
        story = Story(
            peers,
            processes.records(),
            processes.told.lines,
            chaos.samples,
            {**_BOUNDS, DESCRIPTORS: 60.0 + 10 * peers},
            processes.told.column_of,
            processes.lost_disks,
            rests,
        )
    verdict = judge(story)
    verdict.broken += chaos.broken
    return Outcome(story, verdict, chaos.faults, chaos.skipped)


def report(outcome: Outcome) -> str:
    """The table, for people."""
    verdict, faults = outcome.verdict, outcome.faults
    waits = recoveries(faults, outcome.story.lines)
    lines = [f"{'fault':<12}{'fired':>7}{'median s':>10}{'worst s':>9}   to the next commit of others"]
    for kind, count in sorted(Counter(kind for kind, _, _ in faults).items()):
        median, worst = statistics.median(waits[kind]), max(waits[kind])
        lines.append(f"{kind:<12}{count:>7}{median:>10.2f}{worst:>9.2f}")
    gaps = [b - a for a, b in pairwise(commit_times(outcome.story.lines))]
    usual = statistics.median(gaps) if gaps else math.inf
    told = Counter(line["event"] for line in outcome.story.lines)
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(verdict.fates.items()))
    lines += [
        f"{len(faults)} faults, {outcome.skipped} more made no sense when they were due",
        f"{verdict.rounds} rounds ({verdict.restored} restoring), {usual:.2f} s apart as a rule; "
        f"{verdict.means} means recomputed, {verdict.unheard} at the end unheard of",
        f"{verdict.lives} lives of workers; contributions: {fates or 'none'}",
        "told: " + ", ".join(f"{count} {what}" for what, count in sorted(told.items())),
        "at most: "
        + ", ".join(f"{found:.0f} {what.partition(': ')[2]}" for what, found in verdict.most.items()),
        *(f"BROKEN {each}" for each in verdict.broken),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> Outcome:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="in which something goes wrong")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--mean", type=float, default=1.5, help="seconds from a fault to the next, on average"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--keep", type=Path, help="a new folder for what everyone told")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as passing:
        folder = args.keep or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        faults = list(draw(args.seed, args.peers, 60 * args.minutes, args.mean, args.kinds))
        outcome = run_chaos(folder, args.minutes, args.peers, faults)
    print(report(outcome), flush=True)
    return outcome


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # it leaves no process behind
    sys.exit(bool(main().verdict.broken))
