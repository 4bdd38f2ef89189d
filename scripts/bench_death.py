"""How long the others wait when a process dies: seconds from SIGKILL to the next commit, by kind of death.

Real processes on loopback, with the settings of a run that sets nothing but its size: two workers go on, a
third one dies by SIGKILL in an exchange, again and again; with forked `DataLoader` workers too, which live on
for a while. Beside it: a joiner that dies in the moment in which it becomes active, a host that is killed and
started again (from the moment the new process listens), and a worker that lives and whose frames of exchanges
are held back, all of them or all but one every eight seconds (from the opening of the round).

    python scripts/bench_death.py 20
    python scripts/bench_death.py 100 --kinds accepts dials --log deaths.jsonl    goes on where that file ends
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from death_worker import MEMBERS, Role, Tell, work
from fork_server import fork_server

import diloco

LONGEST_S = 120.0
"""More than any wait that is measured here."""
STORY_S = {"mute": 15.0, "drip": 20.0}
"""By kind, else 3: of a death that took longer, what everybody told since is printed."""
STEP_S = 0.04
"""Of training: rounds come twice a second, and leave the processors to what is measured."""
BATCH = 20
"""Deaths in one run: a ticket has 32 places, and who dies keeps its place for a day."""
VICTIMS = {
    "accepts": Role("", "", "victim", 0, dies="exchange"),
    "dials": Role("", "", "victim", 0, listens=False, dies="exchange"),
    "dataloader": Role("", "", "victim", 0, dies="exchange", loaders=2),
    "dials-dataloader": Role("", "", "victim", 0, listens=False, dies="exchange", loaders=2),
    "joiner": Role("", "", "victim", 0, dies="joining"),
    "mute": Role("", "", "victim", 0, dies="mute"),
    "drip": Role("", "", "victim", 0, dies="drip"),
}
KINDS = (*VICTIMS, "host")


@dataclass(frozen=True, slots=True)
class Death:
    """One that was measured, and how many processes wanted a processor then."""

    kind: str
    wait_s: float
    load: float


class Bench:
    """Workers of one run, and what they tell."""

    def __init__(self, folder: str, parameters: int) -> None:
        self.folder, self.parameters = folder, parameters
        self._context = fork_server("death_worker")
        self._told = Path(folder) / "told"
        self._told.touch()
        self._read = 0
        self._workers: list[Any] = []

    def start(self, ticket: str, role: Role) -> None:
        """One more worker."""
        told = replace(role, folder=self.folder, ticket=ticket, parameters=self.parameters, step_s=STEP_S)
        worker = self._context.Process(target=work, args=(told,))
        worker.start()
        self._workers.append(worker)

    def wait(self, which: Callable[[str, str, float, int], bool]) -> float:
        """When the next told thing of which ``which(name, what, when, members)`` is true happened."""
        give_up = time.monotonic() + LONGEST_S
        while time.monotonic() < give_up:
            with self._told.open("rb") as told:
                told.seek(self._read)
                line = told.readline()
            if not line.endswith(b"\n"):
                time.sleep(0.005)
                continue
            self._read += len(line)
            name, what, at, members = line.decode().split(",")
            if which(name, what, float(at), int(members)):
                return float(at)
        raise SystemExit("bench_death: nothing happened for two minutes")

    def is_commit_after(self, moment: float) -> Callable[[str, str, float, int], bool]:
        """Whether a survivor hears of a commit after a moment."""
        return lambda name, what, at, members: (
            what == "committed" and not name.startswith("victim") and at > moment
        )

    def wait_after(self, moment: float, long_s: float) -> float:
        """Seconds from a moment to the next commit of a survivor. If they are many, everybody's story is
        printed."""
        wait_s = self.wait(self.is_commit_after(moment)) - moment
        if wait_s > long_s:
            for line in self._told.read_text().splitlines():
                name, what, at, members = line.split(",")
                if (since := float(at) - moment) > -1.0:
                    print(f"{since:8.2f} {name} {what} {members}", file=sys.stderr)
        return wait_s

    def end_newest(self) -> None:
        """Kill the process that was started last, if it lives."""
        worker = self._workers.pop()
        worker.kill()
        worker.join()

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self._workers:
            worker.kill()
            worker.join()


def waits_of(kind: str, count: int, parameters: int) -> Iterator[float]:
    """Seconds from a death to the next commit, so many times."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, parameters)
        settings = diloco.RunSettings.model_validate(
            {"run": {"rounds": 10**6}, "method": {"preset": "local_sgd", "sync_every": 10}}
        )
        home, told = Path(folder) / "host", Tell(folder, "host")
        with diloco.host(settings, listen="tcp://127.0.0.1:0", state=home, on_trace=told.trace) as host:
            try:
                for index in range(MEMBERS - 1):
                    bench.start(host.ticket, Role("", "", f"w{index}", 0))
                for _ in range(MEMBERS - 1):
                    bench.wait(lambda name, what, at, members: what.startswith("active"))
                victim = VICTIMS[kind]
                for number in range(count):
                    # Of two that accept no connections the second is refused while the first is a member, so
                    # that one comes back as itself; others are new, as each is probed every 5 s at most.
                    name = f"victim{number}" if victim.listens else "victim"
                    bench.start(host.ticket, replace(victim, name=name))
                    fault = bench.wait(lambda name, what, at, members: what == "fault")
                    yield bench.wait_after(fault, STORY_S.get(kind, 3.0))
                    bench.end_newest()
            finally:
                bench.close()


def waits_for_the_host(count: int, parameters: int) -> Iterator[float]:
    """Seconds from the moment at which a restarted host listens to the next commit."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, parameters)
        toml, ticket = Path(folder) / "RUN.toml", Path(folder) / "ticket"
        toml.write_text("[run]\nrounds = 1000000\n[method]\npreset = 'local_sgd'\nsync_every = 10\n")
        try:
            with host_process(toml, ticket):
                for index in range(MEMBERS):
                    bench.start(f"@{ticket}", Role("", "", f"w{index}", 0))
                for _ in range(MEMBERS):
                    bench.wait(lambda name, what, at, members: what.startswith("active"))
                bench.wait(is_whole)
            for _ in range(count):
                ticket.unlink()
                with host_process(toml, ticket):
                    listens = time.monotonic()
                    yield bench.wait_after(listens, 3.0)
                    bench.wait(is_whole)
        finally:
            bench.close()


def is_whole(name: str, what: str, at: float, members: int) -> bool:
    """Whether a commit has everybody in it."""
    return what == "committed" and members == MEMBERS


@contextmanager
def host_process(toml: Path, ticket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A host in a process of its own, killed at the end; it writes its ticket once it listens."""
    command = [sys.executable, "-m", "diloco.cli", "host", str(toml), "--listen", "tcp://127.0.0.1:0"]
    command += ["--state", str(toml.parent / "host"), "--ticket-file", str(ticket)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        while not (ticket.exists() and ticket.read_text().endswith("\n")):
            if process.poll() is not None:
                raise SystemExit("bench_death: the host has ended")
            time.sleep(0.002)
        yield process
    finally:
        process.kill()
        process.wait()


def deaths(kind: str, count: int, parameters: int) -> Iterator[Death]:
    """Measure so many of a kind."""
    waits = waits_for_the_host if kind == "host" else partial(waits_of, kind)
    batches = [BATCH] * (count // BATCH) + [count % BATCH] * (count % BATCH > 0)
    for wait_s in chain.from_iterable(waits(batch, parameters) for batch in batches):
        death = Death(kind, round(wait_s, 3), os.getloadavg()[0])
        print(f"{kind}: {death.wait_s:.2f} s, load {death.load:.0f}", file=sys.stderr, flush=True)
        yield death


def known(log: Path | None) -> list[Death]:
    """What was measured before."""
    if log is None or not log.exists():
        return []
    return [Death(**json.loads(line)) for line in log.read_text().splitlines()]


HEAD = f"{'kind':<18}{'n':>5}{'median s':>10}{'worst s':>9}  load"


def row(kind: str, found: list[Death]) -> str:
    """A line of the table."""
    waits, loads = [each.wait_s for each in found], [each.load for each in found]
    load = f"{min(loads):.0f} to {max(loads):.0f}"
    return f"{kind:<18}{len(found):>5}{statistics.median(waits):>10.2f}{max(waits):>9.2f}  {load}"


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Death]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=20, help="deaths of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument(
        "--log", type=Path, help="each death as a line of JSON; those that it has are not repeated"
    )
    args = parser.parse_args(arguments)
    table: dict[str, list[Death]] = {}
    print(HEAD, flush=True)
    for kind in args.kinds:
        found = table[kind] = [each for each in known(args.log) if each.kind == kind]
        for death in deaths(kind, args.count - len(found), args.parameters):
            found.append(death)
            if args.log is not None:
                with args.log.open("a") as log:
                    log.write(json.dumps(asdict(death)) + "\n")
        print(row(kind, found), flush=True)
    return table


if __name__ == "__main__":
    main()
