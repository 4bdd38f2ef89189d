"""Kill the host and all replicas of a pipeline at once, start them again in another order, and look for loss.

A host and replicas of three stages are processes on loopback with a state directory each; parts compute by
waiting. They get SIGKILL at a drawn moment, again and again. A round of a stage is lost if the host's journal
has it no more, or if a later record gives it up; each stage has to go on from its own newest commit. What all
processes tell of microbatches is judged by stage_ledger.py: exit code 1 if anything is broken or lost.

    python scripts/kill_all_stages.py 20
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fork_server import fork_server
from kill_all import lost_rounds
from kill_stages import BACKWARD_S, FORWARD_S, QUOTA, STAGES, Told
from stage_ledger import Commit, judge
from stage_worker import Replica, work

from peers.coordinator.journal import CommitWritten
from peers.coordinator.journal_file import Journal
from peers.protocol.record import Record

_WAIT_S = 120.0
_RUN = f"""\
[run]
rounds = 1000000
min_peers = 1
failure_timeout_s = 3
grace_s = 3
[method]
preset = 'local_sgd'
sync_every = 4
codec = 'fp32'
[pipeline]
stages = {STAGES}
microbatch = 1
quota = {QUOTA}
activations = 'fp32'
recompute = false
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What one kill came to."""

    rounds: tuple[int, ...]
    """In the journal, by stage, when all were dead."""
    lost: int
    commit_s: float
    """From the kill until each stage has a new commit."""
    settled_s: float
    """From the kill to the first microbatch that settles."""


class Everyone:
    """The processes of a run; nothing outlives the context."""

    def __init__(self, folder: Path, replicas: int) -> None:
        self.folder, self.told = folder, Told(folder)
        self.lives: list[tuple[int, list[Record]]] = []
        """Of each time when all were dead: the line from which lives are newer, and what the journal had."""
        self._context = fork_server("stage_worker")
        self._names = [(f"r{n}", n % STAGES) for n in range(STAGES * replicas)]
        self._workers: list[Any] = []
        self._host: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Everyone:
        (self.folder / "RUN.toml").write_text(_RUN)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, rng: Random) -> None:
        """All, in a drawn order; the host comes early or late, but first where there is no run yet."""
        order: list[tuple[str, int] | None] = [*self._names]
        rng.shuffle(order)
        order.insert(rng.randrange(len(order) + 1) if self.lives else 0, None)
        for each in order:
            if each is None:
                self._start_host()
            else:
                ticket = (self.folder / "ticket").read_text().strip()
                pauses = FORWARD_S, BACKWARD_S
                replica = Replica(
                    str(self.folder), ticket, each[0], os.getpid(), *pauses, wish=each[1], keeps=True
                )
                self._workers.append(self._context.Process(target=work, args=(replica,)))
                self._workers[-1].start()
            time.sleep(rng.uniform(0.0, 0.25))

    def _start_host(self) -> None:
        ticket, port = self.folder / "ticket", self.folder / "port"
        listen = f"tcp://127.0.0.1:{port.read_text() if port.exists() else 0}"
        command = [sys.executable, "-m", "diloco.cli", "host", str(self.folder / "RUN.toml")]
        command += ["--listen", listen, "--state", str(self.folder / "host"), "--ticket-file", str(ticket)]
        with (self.folder / "host.log").open("ab") as log:
            self._host = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        said = self.folder / "host.log"
        if not self.lives:
            wait("the host does not listen", lambda: ticket.exists() and ticket.read_text().endswith("\n"))
            line = next(x for x in said.read_text().splitlines() if x.startswith("run "))
            port.write_text(line.split(" at ")[1].split(",")[0].rpartition(":")[2])

    def kill(self) -> float:
        """SIGKILL; when."""
        processes = [each for each in (self._host, *self._workers) if each is not None]
        for each in processes:
            each.kill()
        killed_at = time.monotonic()
        for worker in self._workers:
            worker.join()
        if self._host is not None:
            self._host.wait()
        self._host, self._workers = None, []
        self.told.read()
        return killed_at

    def records(self) -> list[Record]:
        """All of the journal, while nobody has it."""
        found = []
        for path in self.folder.glob("host/**/journal-*"):
            journal = Journal(path)
            found += [entry.commit() for entry in journal.entries() if isinstance(entry, CommitWritten)]
            journal.close()
        return found

    def newest(self) -> list[int]:
        """By stage: the index of the newest commit that somebody who lives has told of."""
        self.told.read()
        if dead := [each for each in self._workers if each.exitcode is not None]:
            raise SystemExit(f"kill_all_stages: {len(dead)} replicas have ended by themselves: {self.folder}")
        found = [0] * STAGES
        for line in self.told.lines:
            if line["what"] == "RoundCommitted" and line["number"] is not None:
                found[line["stage"]] = max(found[line["stage"]], line["index"])
        return found

    def commits(self, before: Sequence[Record], after: Sequence[Record], since: float) -> list[Commit]:
        """What the lives that began after a moment have in the journal."""
        life_of = {
            line["key"]: line["life"]
            for line in self.told.lines
            if line["what"] == "given" and line["at"] > since
        }
        old = {each.hash() for each in before}
        return [
            Commit(key.hex(), weight, life_of[key.hex()])
            for record in after
            if record.hash() not in old
            for key, weight in zip(record.members, record.weights, strict=True)
        ]


def wait(what: str, condition: Callable[[], bool]) -> None:
    """Until it is true."""
    give_up = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit(f"kill_all_stages: {what}: not within {_WAIT_S:.0f} s")
        time.sleep(0.1)


def of_stage(records: Sequence[Record], stage: int) -> list[Record]:
    """One chain."""
    return [each for each in records if each.course == stage]


def run(folder: Path, kills: int, replicas: int, seed: int) -> tuple[list[Found], list[str]]:
    """All kills, and what is broken."""
    rng = Random(seed)
    found: list[Found] = []
    with Everyone(folder, replicas) as everyone:
        commits: list[Commit] = []
        before: list[Record] = []
        began, killed_at = time.monotonic(), 0.0
        for number in range(kills + 1):
            everyone.start(rng)
            tops = [max((each.index for each in of_stage(before, s)), default=0) for s in range(STAGES)]
            wait(
                f"after kill {number} not every stage commits",
                lambda tops=tops: all(a > b for a, b in zip(everyone.newest(), tops, strict=True)),  # type: ignore[misc]
            )
            commit_s = time.monotonic() - killed_at
            time.sleep(rng.uniform(0.0, 3.0))
            after_kill = killed_at
            killed_at = everyone.kill()
            after = everyone.records()
            commits += everyone.commits(before, after, began)
            if number:
                lost = sum(lost_rounds(of_stage(before, s), of_stage(after, s)) for s in range(STAGES))
                settled = min((at for at in everyone.told.settled if at > after_kill), default=math.inf)
                rounds = tuple(len(of_stage(before, stage)) for stage in range(STAGES))
                found.append(Found(rounds, lost, commit_s, settled - after_kill))
                print(f"kill {number}: {found[-1]}", flush=True)
            everyone.lives.append((number, after))
            before, began = after, time.monotonic()
        lives = {line["life"] for line in everyone.told.lines}
        judged = judge(everyone.told.lines, commits, STAGES, QUOTA, lives)
        sums = zip(judged.counted.values(), judged.expected.values(), strict=True)
        broken = [*judged.broken, *(f"{a} tokens counted, {b} expected" for a, b in sums if a != b)]
    return found, broken


def main(arguments: Sequence[str] | None = None) -> bool:
    """Whether nothing is broken or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--replicas", type=int, default=2, help="of each stage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for what everyone told")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as passing:
        folder = args.keep or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        found, broken = run(folder, args.kills, args.replicas, args.seed)
    commits, settled = [each.commit_s for each in found], [each.settled_s for each in found]
    lost, rounds = sum(each.lost for each in found), sum(found[-1].rounds)
    print(
        f"{len(found)} kills, {lost} of {rounds} rounds of {STAGES} stages lost; until each stage committed:"
        f" median {statistics.median(commits):.1f} s, worst {max(commits):.1f} s; until one settled: median"
        f" {statistics.median(settled):.1f} s, worst {max(settled):.1f} s"
    )
    for each in broken:
        print(f"BROKEN {each}")
    return not broken and not lost


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # it leaves no process behind
    sys.exit(not main())
