"""A real swarm in which much goes wrong: processes die and stop, lines break, the host comes back.

A host and workers are processes on loopback, each behind an emulated line. Faults are drawn from the seed
(chaos_faults.py), then all is healed and everyone must be in one commit. What the host's journal and the
workers tell is judged by an oracle that recomputes every mean (chaos_oracle.py).

    scripts/chaos --minutes 5 --peers 8 --seed 1
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from chaos_faults import Fault, draw
from chaos_oracle import (
    DESCRIPTORS,
    GROWN,
    MEMORY,
    THREADS,
    Sample,
    Story,
    Verdict,
    judge,
    recoveries,
)
from chaos_processes import HOST, LINE, Processes, wait_until

_START_S = 120.0
_QUIET_S = 120.0
"""Until all are in one commit, before the faults and after them; a busy machine is slow."""
_LOOK_EVERY_S = 2.0
_SLOW_BPS = 2e6
_UNDISTURBED = 2
"""Workers that hold the state and are left alone at any moment, so that rounds can go on."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    story: Story
    verdict: Verdict
    faults: list[tuple[str, str, float]] = field(default_factory=list)
    """Kind, victim, and from when on a commit is waited for."""
    skipped: int = 0


class Chaos:
    """Carries faults out, each with its end."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.faults: list[tuple[str, str, float]] = []
        self.skipped = 0
        self.broken: list[str] = []
        self.samples: list[Sample] = []
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._busy: set[str] = set()
        """Processes and lines that something is wrong with."""
        self._looked = -math.inf
        self._restarted_at = math.inf

    def run(self, faults: Sequence[Fault], until: float, began: float) -> None:
        """Until a moment of the monotonic clock."""
        waiting = list(reversed(faults))
        while (now := time.monotonic()) < until:
            self._turn(now)
            while waiting and began + waiting[-1].at_s <= now:
                fault = waiting.pop()
                self.skipped += not self._fire(now, fault)
            time.sleep(0.05)

    def heal(self) -> None:
        """End all that is wrong now."""
        while self._ends:
            heapq.heappop(self._ends)[2]()

    def wait_for_everyone(self, seconds: float) -> bool:
        """Whether all come to be in one commit, and hold it."""
        told, since = self.processes.told, time.monotonic()

        def together() -> bool:
            self._turn(time.monotonic())
            whole = {
                line["index"]
                for line in told.last.values()
                if line["members"] == self.processes.peers and line["at"] > since
            }
            return (
                bool(whole)
                and len(told.last) == self.processes.peers
                and min(whole) <= min(line["index"] for line in told.last.values())
            )

        return wait_until(together, seconds)

    # -- inside -----------------------------------------------------------------------------------

    def _turn(self, now: float) -> None:
        self.processes.told.read()
        self.broken += self.processes.ended()
        if self._restarted_at < now and self.processes.host_listens:
            self._restarted_at = math.inf
            self.faults.append(("host kill", "host", now))
        while self._ends and self._ends[0][0] <= now:
            heapq.heappop(self._ends)[2]()
        if now - self._looked > _LOOK_EVERY_S:
            self._looked = now
            self.samples += self.processes.look(now)

    def _fire(self, now: float, fault: Fault) -> bool:
        """False if it makes no sense just now."""
        kind = fault.kind.removeprefix("host ")
        column = HOST if kind != fault.kind else fault.who
        name = "host" if column == HOST else f"w{column}"
        target = f"line of {name}" if kind in ("cut", "stall", "throttle", "reset") else name
        if target in self._busy or not self._may_be_disturbed(name, kind):
            return False
        action, end = self._actions(kind, column)
        action()
        self._busy.add(target)

        def ends() -> None:
            self._busy.discard(target)
            end()

        heapq.heappush(self._ends, (now + fault.seconds, len(self.faults) + self.skipped, ends))
        if fault.kind == "host kill":
            return True  # counted from the moment at which the new process listens
        # Without its host no round is committed: what counts is how soon it goes on after.
        self.faults.append((fault.kind, name, now + fault.seconds if column == HOST else now))
        return True

    def _may_be_disturbed(self, name: str, kind: str) -> bool:
        if name == "host" or kind in ("reset", "throttle"):
            return name == "host" or self.processes.told.active.get(name) is not None
        disturbed = {each.removeprefix("line of ") for each in self._busy}
        left = [each for each in self.processes.told.active if each not in disturbed and each != name]
        return len(left) >= _UNDISTURBED and name in self.processes.told.active

    def _actions(self, kind: str, column: int) -> tuple[Callable[[], None], Callable[[], None]]:
        processes = self.processes
        link = processes.links[column]
        match kind:
            case "kill" if column == HOST:
                return processes.kill_host, self._restart_host
            case "kill" | "replace":
                return (
                    lambda: processes.kill(column),
                    lambda: processes.start(column, fresh=kind == "replace"),
                )
            case "stop":
                return lambda: processes.freeze(column), lambda: processes.thaw(column)
            case "cut":
                return lambda: link.do(lambda it: it.cut()), lambda: link.do(lambda it: it.restore())
            case "stall":
                return lambda: link.do(lambda it: it.pause()), lambda: link.do(lambda it: it.resume())
            case "throttle":
                return (
                    lambda: link.do(lambda it: it.set_rate(_SLOW_BPS)),
                    lambda: link.do(lambda it: it.set_rate(LINE.rate_bps)),
                )
        return lambda: link.do(lambda it: it.reset()), lambda: None

    def _restart_host(self) -> None:
        self.processes.start_host()
        self._restarted_at = time.monotonic()


def run_chaos(folder: Path, minutes: float, peers: int, seed: int, mean_s: float) -> Outcome:
    """A swarm under faults for so long, and what the oracle says."""
    faults = list(draw(seed, peers, 60 * minutes, mean_s))
    with Processes(folder, peers, elements=2500 * peers, step_s=0.08) as processes:
        processes.start_host()
        if not wait_until(lambda: processes.host_listens, _START_S):
            raise SystemExit("chaos: the host does not start")
        for column in range(peers):
            processes.start(column)
        chaos = Chaos(processes)
        if not chaos.wait_for_everyone(_START_S):
            raise SystemExit(f"chaos: not everyone came into one commit in the beginning: {chaos.broken}")
        began = time.monotonic()
        chaos.run(faults, began + 60 * minutes, began)
        chaos.heal()
        if not chaos.wait_for_everyone(_QUIET_S):
            chaos.broken.append(f"L1: not everyone was in one commit {_QUIET_S:.0f} s after the last fault")
        processes.kill_host()
        processes.told.read()
        story = Story(
            peers,
            processes.records(),
            processes.told.lines,
            chaos.samples,
            {GROWN: 64.0, MEMORY: 800.0, THREADS: 24.0, DESCRIPTORS: 60.0 + 10 * peers},
            processes.told.column_of,
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
    commits = {
        line["index"]: line["at"] for line in reversed(outcome.story.lines) if line["event"] == "committed"
    }
    gaps = [b - a for a, b in pairwise(sorted(commits.values()))]
    usual = statistics.median(gaps) if gaps else math.inf
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(verdict.fates.items()))
    lines += [
        f"{len(faults)} faults, {outcome.skipped} more made no sense when they were due",
        f"{verdict.rounds} rounds ({verdict.restored} restoring), {usual:.2f} s apart as a rule; "
        f"{verdict.means} means recomputed",
        f"{verdict.lives} lives of workers; contributions: {fates or 'none'}",
        "most that a process took: "
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
    parser.add_argument("--keep", type=Path, help="a new folder for what everyone told")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as passing:
        folder = args.keep or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run_chaos(folder, args.minutes, args.peers, args.seed, args.mean)
    print(report(outcome), flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(bool(main().verdict.broken))
