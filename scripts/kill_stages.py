"""Kill replicas of a pipeline by role, again and again: what it costs, and whether every count is right.

Two replicas of each of three stages are processes on loopback, whose parts compute by waiting. One gets
SIGKILL, at any moment or by itself around a command that it gives its member; a fresh process joins, which
the host gives the stage that lacks it. Roles: a replica of stage 0 (feeder), of stage 1 (middle), of stage 2
(last), and a third one of any stage, as it comes (newest). Microbatches settled per second are those of all
feeders together, over two seconds: *share* is when they are 90 % of what is left after this death (half of
what was there before; all of it without the newest), *whole* when they are 90 % of what was there before,
with a fresh replica; *gap* is the longest time in which none settles. What all processes tell is judged
by stage_ledger.py after each death: exit code 1 if anything of it is broken. With --moves there is one
replica more, and the host may move all of them: a fresh one joins only once each stage is whole again, so
that where a stage with two loses one, the host moves one in. The role mover is that one, which dies as it
moves.

    python scripts/kill_stages.py 20
    python scripts/kill_stages.py 20 --roles middle last --log kills.jsonl    goes on where that file ends
    python scripts/kill_stages.py 20 --wiring throughput --moves
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from random import Random
from typing import Any

from fork_server import fork_server
from stage_ledger import Commit, Found, judge
from stage_worker import Replica, work

import diloco
from diloco.settings import RunSettings
from peers.protocol.traces import (
    ActiveTrace,
    CommittedTrace,
    RemovedTrace,
    StageGivenTrace,
    StageMoveTrace,
)
from transport.effects import Trace

STAGES, REPLICAS, QUOTA = 3, 2, 8
FORWARD_S, BACKWARD_S = 0.02, 0.04
ROLES = ("feeder", "middle", "last", "newest")
MOVER = "mover"
COMMANDS = {
    "feeder": ("Feed", "ForwardDone", "Counted", "Stepped", "Offer"),
    "middle": ("ForwardBegan", "ForwardDone", "Counted", "Stepped", "Offer"),
    "last": ("ForwardBegan", "Counted", "Stepped", "Offer"),
    "newest": ("ForwardBegan", "Counted", "Offer"),
    MOVER: ("Drain", "Offer", "Stepped", "ConfirmOpened"),
}
WINDOW_S = 2.0
BEFORE_S = 5.0
"""A run is quiet for so long before each death: its speed is known then."""
SLOW_S = 20.0
"""Most that is waited, once all replicas are there, until it is as fast as before."""
LONGEST_S = 90.0
MOVE_S = 300.0
"""Most that is waited until the host has moved somebody: it rests ten failure timeouts after each move."""
BATCH = 20
"""Deaths in one run: what a ticket lets in is bounded."""
SETTINGS: dict[str, dict[str, Any]] = {
    "run": {"name": "kills", "rounds": 10**6, "min_peers": 1, "failure_timeout_s": 3.0, "grace_s": 3.0},
    "method": {"preset": "local_sgd", "sync_every": 4, "codec": "fp32"},
    "pipeline": {
        "stages": STAGES,
        "microbatch": 1,
        "quota": QUOTA,
        "wiring": "lines",
        "activations": "fp32",
        "recompute": False,
    },
}


@dataclass(frozen=True, slots=True)
class Death:
    """What one came to."""

    role: str
    moment: str
    stage: int
    share_s: float
    whole_s: float
    gap_s: float
    partial: int
    lost: int
    counted: tuple[int, ...]
    """Tokens by stage, since the run began, of microbatches whose end was told."""
    expected: tuple[int, ...]
    """Of settled ones, and of partial ones above."""
    void: int
    """Tokens that a dead replica had counted and no commit has."""
    broken: tuple[str, ...]
    load: float


@dataclass(slots=True)
class Host:
    """What the host of a run told, as it happens."""

    commits: list[Commit] = field(default_factory=list)
    active: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    """Keys of members that are not there, and KEY/STAGE of those that were in that stage."""
    movers: list[str] = field(default_factory=list)
    """Names of those that were told to move."""
    _stages: dict[bytes, int] = field(default_factory=dict)

    def on_trace(self, trace: Trace) -> None:
        """On the network's thread."""
        match trace:
            case CommittedTrace():
                pairs = zip(trace.members, trace.weights, strict=True)
                self.commits += [Commit(key.hex(), weight, stage=trace.course) for key, weight in pairs]
            case StageGivenTrace():
                self._stages[trace.peer] = trace.stage
            case StageMoveTrace():
                self.movers.append(trace.peer_name)
            case ActiveTrace():
                self.active.add(trace.peer.hex())
                self.gone -= self._names(trace.peer)
            case RemovedTrace():
                self.active.discard(trace.peer.hex())
                self.gone |= self._names(trace.peer)

    def _names(self, peer: bytes) -> set[str]:
        return {peer.hex(), f"{peer.hex()}/{self._stages.get(peer)}"}


class Told:
    """What replicas told, read as it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._stages: dict[Path, int] = {}
        self._lines: dict[Path, list[dict[str, Any]]] = {}
        self.settled: list[float] = []
        """When each microbatch did."""

    def read(self) -> None:
        """Stage 0 first: nothing is counted there that the stages above have not told."""
        paths = sorted(self._folder.glob("*.jsonl"), key=lambda path: self._stages.get(path, STAGES))
        for path in paths:
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole = file.read().rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(whole[0]) + len(whole[1])
            lines = [json.loads(text) for text in whole[0].splitlines()]
            self._lines.setdefault(path, []).extend(lines)
            for line in lines:
                if "stage" in line:
                    self._stages[path] = line["stage"]
                if line["what"] == "MicrobatchEnded" and line["how"] == "settled":
                    self.settled.append(line["at"])

    @property
    def lines(self) -> Iterator[dict[str, Any]]:
        """By process, stage 0 first."""
        for path in sorted(self._lines, key=lambda path: self._stages.get(path, STAGES)):
            yield from self._lines[path]

    def last(self, name: str, what: str) -> dict[str, Any] | None:
        """The newest line of that kind that a process told."""
        found = [
            line
            for path, lines in self._lines.items()
            if path.name.partition(".")[0] == name
            for line in lines
            if line["what"] == what
        ]
        return max(found, key=lambda line: float(line["at"]), default=None)

    def rate(self, until: float, over_s: float = WINDOW_S) -> float:
        """Microbatches settled per second just before a moment."""
        return sum(until - over_s < at <= until for at in self.settled[-4000:]) / over_s


class Run:
    """Processes of one run; nothing outlives the context."""

    def __init__(self, folder: Path, wiring: str, moves: bool) -> None:
        self.folder, self.host, self.told = folder, Host(), Told(folder)
        self.wiring, self.moves = wiring, moves
        self._context = fork_server("stage_worker")
        self._swarm: diloco.Swarm | None = None
        self._number = 0
        self.processes: dict[str, Any] = {}

    def __enter__(self) -> Run:
        pipeline = {**SETTINGS["pipeline"], "wiring": self.wiring}
        settings = RunSettings.model_validate({**SETTINGS, "pipeline": pipeline})
        self._swarm = diloco.host(
            settings,
            listen="tcp://127.0.0.1:0",
            state=self.folder / "host",
            on_trace=self.host.on_trace,
            ticket_uses=256,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.kill(name)
        assert self._swarm is not None
        self._swarm.close()

    def start(self, wish: int | None = None) -> str:
        """A fresh replica."""
        assert self._swarm is not None
        name = f"r{self._number:02}"
        self._number += 1
        replica = Replica(
            str(self.folder),
            self._swarm.ticket,
            name,
            os.getpid(),
            FORWARD_S,
            BACKWARD_S,
            wish=None if self.moves else wish,
            moves=self.moves,
        )
        self.processes[name] = self._context.Process(target=work, args=(replica,))
        self.processes[name].start()
        return name

    def kill(self, name: str) -> None:
        """SIGKILL, if it lives."""
        process = self.processes.pop(name)
        process.kill()
        process.join()
        (self.folder / f"{name}.die").unlink(missing_ok=True)

    def at_work(self, stage: int) -> list[str]:
        """Those of a stage that hold its state, the newest last."""
        found = []
        for name in self.processes:
            line = self.told.last(name, "active")
            if line is not None and line["stage"] == stage and line["key"] in self.host.active:
                found.append(name)
        return found

    def is_whole(self) -> bool:
        """Whether each stage has its replicas."""
        self.told.read()
        for name, process in self.processes.items():
            if process.exitcode is not None and not (self.folder / f"{name}.die").exists():
                raise SystemExit(f"kill_stages: {name} has ended by itself: {self.folder / name}.log")
        return all(len(self.at_work(stage)) >= REPLICAS for stage in range(STAGES))

    def wait_for(self, what: str, condition: Callable[[], bool], most_s: float = LONGEST_S) -> None:
        """Until it is true."""
        give_up = time.monotonic() + most_s
        while not condition():
            if time.monotonic() > give_up:
                raise SystemExit(f"kill_stages: {what}: not within {most_s:.0f} s")
            time.sleep(0.1)

    def rest(self, seconds: float) -> None:
        """Let it run."""
        time.sleep(seconds)
        self.told.read()

    def judged(self) -> Found:
        """Everything that was told so far."""
        self.told.read()
        return judge(self.told.lines, list(self.host.commits), STAGES, QUOTA, set(self.host.gone))


@contextmanager
def folder_of(keep: Path | None, role: str, count: int) -> Iterator[Path]:
    """Where the processes of a run tell."""
    if keep is None:
        with tempfile.TemporaryDirectory() as passing:
            yield Path(passing)
    else:
        kept = keep / f"{role}-{count}"
        kept.mkdir(parents=True)
        yield kept


def deaths(role: str, count: int, options: argparse.Namespace) -> Iterator[Death]:
    """Measure so many of a role, in runs of their own."""
    rng = Random(f"{options.seed} {role} {count}")
    while count > 0:
        with (
            folder_of(options.keep, role, count) as folder,
            Run(folder, options.wiring, options.moves) as run,
        ):
            for stage in [*range(STAGES)] * REPLICAS:
                run.start(stage)
            if run.moves:
                run.start()
            run.wait_for("the run does not begin", run.is_whole)
            # The host that lost a mover rests for ten times as long as it waited for that one.
            for _ in range(1 if role == MOVER else min(count, BATCH)):
                yield one(run, role, rng)
                count -= 1


def one(run: Run, role: str, rng: Random) -> Death:
    """One death, and what follows until the run is whole again."""
    before = run.judged()
    moment = rng.choice(
        ("any", *(f"{when} {what}" for what in COMMANDS[role] for when in ("before", "after")))
    )
    run.rest(BEFORE_S)
    speed = run.told.rate(time.monotonic(), BEFORE_S)
    if role == "newest":
        victim = run.start()
        run.wait_for("a third replica does not begin", lambda: is_begun(run, victim))
    elif role == MOVER:
        victim = mover(run, rng)
    else:
        here = run.at_work(ROLES.index(role))
        victim = here[rng.randrange(len(here))]
    died_at = kill(run, victim, moment, rng)
    line = run.told.last(victim, "given")
    run.wait_for(f"{role}, {moment}: the host does not miss it", lambda: is_gone(run, victim))
    fresh = None
    if role == MOVER or not (run.moves or role == "newest"):  # earlier it might be given another stage
        fresh = run.start()
    what = f"{role}, {moment}: there are not two of each stage"
    run.wait_for(what, lambda: is_whole_with(run, fresh), MOVE_S if run.moves else LONGEST_S)
    while run.moves and len(run.processes) < STAGES * REPLICAS + 1:
        run.start()
    share = speed * (1.0 if role == "newest" else 0.5)
    whole_at = time.monotonic()
    while not (fast_from(run, whole_at, 0.9 * speed) < math.inf):
        if time.monotonic() > whole_at + SLOW_S:
            break
        run.rest(0.2)
    share_s = fast_from(run, died_at, 0.9 * share) - died_at
    whole_s = fast_from(run, whole_at, 0.9 * speed) - died_at
    found = run.judged()
    settled = sorted(at for at in run.told.settled if at > died_at - 1.0)
    gap_s = max((b - a for a, b in pairwise(settled)), default=math.inf)
    return Death(
        role,
        moment,
        line["stage"] if line is not None else -1,
        round(share_s, 2),
        round(whole_s, 2),
        round(gap_s, 2),
        found.num("partial") - before.num("partial"),
        found.num("lost") - before.num("lost"),
        tuple(found.counted.values()),
        tuple(found.expected.values()),
        found.void_tokens - before.void_tokens,
        tuple(found.broken[len(before.broken) :]),
        round(os.getloadavg()[0], 1),
    )


def mover(run: Run, rng: Random) -> str:
    """Who is told to move after one of a stage with two replicas has died."""
    poor = [stage for stage in range(STAGES) if len(run.at_work(stage)) == REPLICAS]
    dies = run.at_work(rng.choice(poor))[0]
    told = len(run.host.movers)
    run.kill(dies)
    run.wait_for("the host moves nobody", lambda: len(run.host.movers) > told, MOVE_S)
    return run.host.movers[-1]


def is_begun(run: Run, name: str) -> bool:
    """Whether a process has been given a stage."""
    run.told.read()
    return run.told.last(name, "given") is not None


def is_gone(run: Run, name: str) -> bool:
    """Whether the host knows that a process is."""
    return victim_key(run, name) in run.host.gone


def is_whole_with(run: Run, fresh: str | None) -> bool:
    """Whether each stage has its replicas, that process among them."""
    if not run.is_whole():
        return False
    return fresh is None or any(fresh in run.at_work(stage) for stage in range(STAGES))


def fast_from(run: Run, since: float, rate: float) -> float:
    """When, from a moment on, so many microbatches had settled per second in the time just before."""
    settled = sorted(at for at in run.told.settled if at > since)
    most = math.ceil(rate * WINDOW_S)
    late = (b for a, b in zip(settled, settled[most - 1 :], strict=False) if b - a <= WINDOW_S)
    return next(late, math.inf)


def victim_key(run: Run, name: str) -> str:
    """Of a process; a name that is in no list for one that never said its key."""
    line = run.told.last(name, "given")
    return str(line["key"]) if line is not None else name


def kill(run: Run, victim: str, moment: str, rng: Random) -> float:
    """At its moment; when that was."""
    if moment == "any" or run.processes[victim].exitcode is not None:
        time.sleep(rng.uniform(0.0, 2.0))
    else:
        (run.folder / f"{victim}.die").write_text(f"{moment} {rng.choice((0.0, rng.uniform(0.0, 0.05)))}")
        run.processes[victim].join(15.0)  # a newest one may have nothing to do: it dies then at any moment
    died_at = time.monotonic()
    run.told.read()
    run.kill(victim)
    if victim_key(run, victim) not in run.host.active:
        run.host.gone.add(victim_key(run, victim))
    return died_at


def known(log: Path | None) -> list[Death]:
    """What was measured before."""
    if log is None or not log.exists():
        return []
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return [Death(**{k: tuple(v) if isinstance(v, list) else v for k, v in each.items()}) for each in found]


HEAD = (
    f"{'role':<8}{'n':>4}{'right':>6}{'share s':>9}{'worst':>7}{'whole s':>9}{'worst':>7}"
    f"{'gap s':>7}{'worst':>7}{'partial':>9}{'worst':>7}{'lost':>6}{'worst':>7}{'void tokens':>13}"
)


def row(role: str, found: Sequence[Death]) -> str:
    """A line of the table: medians, and the worst."""
    right = sum(not each.broken and each.counted == each.expected for each in found)
    line = f"{role:<8}{len(found):>4}{right:>6}"
    for width, values, digits in (
        (9, [each.share_s for each in found], 1),
        (9, [each.whole_s for each in found], 1),
        (7, [each.gap_s for each in found], 1),
        (9, [float(each.partial) for each in found], 0),
        (6, [float(each.lost) for each in found], 0),
    ):
        line += f"{statistics.median(values):>{width}.{digits}f}{max(values):>7.{digits}f}"
    return line + f"{statistics.median(each.void for each in found):>13.0f}"


def main(arguments: Sequence[str] | None = None) -> bool:
    """Whether nothing was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=20, help="deaths of each role")
    parser.add_argument("--roles", nargs="+", choices=(*ROLES, MOVER), default=ROLES)
    parser.add_argument("--wiring", choices=("lines", "throughput", "random"), default="lines")
    parser.add_argument("--moves", action="store_true", help="one replica more; the host may move them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for what everyone told")
    parser.add_argument("--log", type=Path, help="each death as a line of JSON; those in it are not repeated")
    args = parser.parse_args(arguments)
    if MOVER in args.roles and not args.moves:
        parser.error("nobody moves without --moves")
    table = {role: [each for each in known(args.log) if each.role == role] for role in args.roles}
    for role, found in table.items():
        for death in deaths(role, args.count - len(found), args):
            found.append(death)
            sums = " ".join(f"{a}={b}" for a, b in zip(death.counted, death.expected, strict=True))
            print(
                f"{role} {death.moment}: share {death.share_s} s, whole {death.whole_s} s, {sums}", flush=True
            )
            for each in death.broken:
                print(f"BROKEN {each}", flush=True)
            if args.log is not None:
                with args.log.open("a") as log:
                    log.write(json.dumps(asdict(death)) + "\n")
    print(HEAD)
    for role, found in table.items():
        print(row(role, found))
    return all(not each.broken and each.counted == each.expected for each in chain(*table.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # it leaves no process behind
    sys.exit(not main())
