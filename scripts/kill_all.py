"""Kill all processes of a swarm at once, start them again in another order, and count the lost rounds.

A host and workers are processes on loopback with a state directory each. They get SIGKILL at a drawn moment:
at any, in the middle of an exchange (a worker stops itself there first), or as soon as the host has written
a commit to its journal. A round is lost if the journal has it no more, or if a later record gives it up.
What workers tell is judged as that of scripts/chaos, digests included.

    python scripts/kill_all.py 20 --peers 8
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from chaos_history import undone
from chaos_oracle import judge
from chaos_processes import HOST, Processes, wait_until
from chaos_story import Line, Story, Verdict

from peers.protocol.record import Record

MOMENTS = ("any", "exchange", "commit")
_WAIT_S = 300.0
_MOMENT_S = 60.0
"""Most that is waited for the moment; then it is any."""


@dataclass(frozen=True, slots=True)
class Kill:
    """When all die, and how they come back."""

    moment: str
    delay_s: float
    """From then on."""
    stops: int
    """The worker that stops in an exchange, where that is the moment."""
    order: tuple[int, ...]
    """Of the columns that come back, the host's among them."""
    gaps_s: tuple[float, ...]
    """Before each."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one kill came to."""

    moment: str
    rounds: int
    """In the journal when all were dead."""
    heard: int
    """Workers that had told that they hold the last one."""
    lost: int
    commit_s: float
    """From the kill to the next commit that no journal had then."""
    whole_s: float
    """From the kill until all hold such a commit."""


def draw(seed: int, kills: int, workers: int) -> Iterator[Kill]:
    """The same for the same seed."""
    random = Random(seed)
    for number in range(kills):
        moment = MOMENTS[number % len(MOMENTS)]
        delay_s = random.uniform(0.0, 2.0 if moment == "any" else 0.015)
        order = random.sample([HOST, *range(workers)], workers + 1)
        gaps_s = tuple(random.uniform(0.0, 0.25) for _ in order)
        yield Kill(moment, delay_s, random.randrange(workers), tuple(order), gaps_s)


def lost_rounds(before: Sequence[Record], after: Sequence[Record]) -> int:
    """Rounds of the journal ``before`` that are not in the one ``after``, and rounds that what is new in this
    gives up."""
    known = {record.hash() for record in after}
    lost = sum(not record.restores and record.hash() not in known for record in before)
    old = {record.hash() for record in before}
    given_up = (gone for record, gone in undone(after) if record.hash() not in old)
    return lost + sum(not gone.restores for gone in given_up)


def seconds_to_commit(lines: Sequence[Line], killed_at: float, above: int) -> float:
    """Until somebody tells of a commit beyond that index: those before it may be told again."""
    at = (x["at"] for x in lines if x["event"] == "committed" and x["index"] > above and x["at"] > killed_at)
    return min(at, default=math.inf) - killed_at


class Swarm:
    """Processes that all die, again and again."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.broken: list[str] = []

    def begin(self, first: Kill) -> None:
        """Until all hold a commit, and somebody has a checkpoint: before it no disk leads anywhere."""
        self._processes.start_host()
        if not wait_until(lambda: self._processes.host_listens, _WAIT_S):
            raise SystemExit("kill_all: the host does not start")
        for column in range(self._processes.peers):
            self._start(column, first)
        lines = self._processes.told.lines
        if not wait_until(
            lambda: self._all_beyond(0) and any(line["event"] == "saved" for line in lines), _WAIT_S
        ):
            raise SystemExit(f"kill_all: the run does not begin: {self.broken}")

    def strike(self, kill: Kill) -> tuple[float, list[Record]]:
        """SIGKILL at its moment; when, and the journal that is left."""
        if kill.moment == "exchange":
            wait_until(lambda: self._is_stopped(kill.stops), _MOMENT_S)
        elif kill.moment == "commit":
            self._await_commit()
        time.sleep(kill.delay_s)
        pids = [process.pid for process in self._processes.workers.values()]
        if self._processes.host is not None:
            pids.append(self._processes.host.pid)
        for pid in pids:
            with suppress(ProcessLookupError):  # what has ended by itself is told
                os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        for column in list(self._processes.workers):
            self._processes.kill(column)
        self._processes.kill_host()
        return killed_at, self._processes.records()

    def come_back(self, kill: Kill, following: Kill | None, above: int) -> bool:
        """Start everyone again; whether all came to hold a commit beyond that index."""
        for column, gap_s in zip(kill.order, kill.gaps_s, strict=True):
            time.sleep(gap_s)
            if column == HOST:
                self._processes.start_host()
            else:
                self._start(column, following)
        return wait_until(lambda: self._all_beyond(above), _WAIT_S)

    def _all_beyond(self, above: int) -> bool:
        told = self._processes.told
        told.read()
        self.broken += [what for _, what in self._processes.ended()]
        newest = [line["index"] for line in told.last.values()]
        return len(newest) == self._processes.peers and min(newest) > above

    def _start(self, column: int, kill: Kill | None) -> None:
        stops = kill is not None and kill.moment == "exchange" and kill.stops == column
        self._processes.start(column, stops_in_exchange=stops)

    def _is_stopped(self, column: int) -> bool:
        stat = Path(f"/proc/{self._processes.workers[column].pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def _await_commit(self) -> None:
        """Until the journal grows by as much as a record that names all workers."""
        (path,) = self._processes.folder.glob("host/**/journal-*")
        before, give_up = path.stat().st_size, time.monotonic() + _MOMENT_S
        while (size := path.stat().st_size) < before + 32 * self._processes.peers:
            if time.monotonic() > give_up:
                return
            before = size
            time.sleep(0.001)


def run(folder: Path, kills: Sequence[Kill], workers: int) -> tuple[list[Found], Verdict]:
    """All kills, each told as soon as it is known what it came to."""
    found: list[Found] = []
    print(f"{'kill':>4} {'moment':<9}{'rounds':>7}{'heard by':>9}{'lost':>5}{'commit s':>9}{'all s':>7}")
    with Processes(folder, workers, elements=1000 * workers, step_s=0.08) as processes:
        swarm, told = Swarm(processes), processes.told
        swarm.begin(kills[0])
        killed_at, records = swarm.strike(kills[0])
        for kill, following in zip(kills, [*kills[1:], None], strict=True):
            rounds = sum(not record.restores for record in records)
            last = records[-1].hash().hex()
            heard = len({line["name"] for line in told.lines if line.get("head") == last})
            whole = swarm.come_back(kill, following, records[-1].index)
            whole_s = time.monotonic() - killed_at
            before, before_at = records, killed_at
            killed_at, records = swarm.strike(following or Kill("any", 0.0, 0, (), ()))
            lost = lost_rounds(before, records)
            commit_s = seconds_to_commit(told.lines, before_at, before[-1].index)
            found.append(Found(kill.moment, rounds, heard, lost, commit_s, whole_s))
            print(row(len(found), found[-1]), flush=True)
            if not whole:
                swarm.broken.append(f"L1: not everyone held a new commit {_WAIT_S:.0f} s after a kill")
                break
        verdict = judge(Story(workers, records, told.lines, column_of=told.column_of))
    verdict.broken += swarm.broken
    return found, verdict


def row(number: int, found: Found) -> str:
    """One kill, for people."""
    return (
        f"{number:>4} {found.moment:<9}{found.rounds:>7}{found.heard:>9}{found.lost:>5}"
        f"{found.commit_s:>9.1f}{found.whole_s:>7.1f}"
    )


def report(found: Sequence[Found], verdict: Verdict) -> str:
    """All kills in a few lines."""
    commits, whole = [each.commit_s for each in found], [each.whole_s for each in found]
    lines = [
        f"{len(found)} kills, {sum(each.lost for each in found)} rounds lost of {verdict.rounds}, "
        f"{verdict.restored} restoring records, {verdict.means} means recomputed",
        f"to the next commit: median {statistics.median(commits):.1f} s, worst {max(commits):.1f} s; "
        f"until all hold one: median {statistics.median(whole):.1f} s, worst {max(whole):.1f} s",
        *(f"BROKEN {each}" for each in verdict.broken),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> bool:
    """Whether no round was lost and nothing else is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--peers", type=int, default=8, help="processes: a host and workers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for what everyone told")
    args = parser.parse_args(arguments)
    if args.kills < 1 or args.peers < 3:
        parser.error("at least one kill, and a host with two workers")
    with tempfile.TemporaryDirectory() as passing:
        folder = args.keep or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        kills = list(draw(args.seed, args.kills, args.peers - 1))
        found, verdict = run(folder, kills, args.peers - 1)
    print(report(found, verdict), flush=True)
    return not verdict.broken and not any(each.lost for each in found)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # it leaves no process behind
    sys.exit(not main())
