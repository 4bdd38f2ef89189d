"""How long the others wait when a process dies: seconds from SIGKILL to the next commit, by kind of death.

Real processes on loopback, with the settings of a run that sets nothing but its size: two workers go on, a
third one dies by SIGKILL in an exchange, again and again. Beside it: a joiner that dies in the moment in
which it becomes active, a host that is killed and started again (from the moment the new process listens),
and a worker that lives and sends nothing.

    python scripts/bench_death.py 20
    python scripts/bench_death.py 100 --kinds accepts dials
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from death_worker import MEMBERS, Role, work

import diloco

LONGEST_S = 120.0
"""More than any wait that is measured here."""
VICTIMS = {
    "accepts": Role("", "", "victim", 0, dies="exchange"),
    "dials": Role("", "", "victim", 0, listens=False, dies="exchange"),
    "accepts, DataLoader": Role("", "", "victim", 0, dies="exchange", loaders=2),
    "dials, DataLoader": Role("", "", "victim", 0, listens=False, dies="exchange", loaders=2),
    "joiner": Role("", "", "victim", 0, dies="joining"),
    "mute": Role("", "", "victim", 0, dies="mute"),
}
KINDS = (*VICTIMS, "host")


class Bench:
    """Workers of one run, and what they tell."""

    def __init__(self, folder: str, parameters: int) -> None:
        self.folder, self.parameters = folder, parameters
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["death_worker"])
        self._told = Path(folder) / "told"
        self._told.touch()
        self._read = 0
        self._workers: list[Any] = []

    def start(self, ticket: str, role: Role) -> None:
        """One more worker."""
        told = replace(role, folder=self.folder, ticket=ticket, parameters=self.parameters)
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

    def reap(self) -> None:
        """Forget the processes that have died."""
        self._workers = [worker for worker in self._workers if worker.is_alive()]

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
        with diloco.host(settings, listen="tcp://127.0.0.1:0", state=Path(folder) / "host") as host:
            try:
                for index in range(MEMBERS - 1):
                    bench.start(host.ticket, Role("", "", f"w{index}", 0))
                for _ in range(MEMBERS - 1):
                    bench.wait(lambda name, what, at, members: what == "active")
                victim = VICTIMS[kind]
                for number in range(count):
                    # Of two that accept no connections the second is refused while the first is a member, so
                    # that one comes back as itself; others are new, as each is probed every 5 s at most.
                    name = f"victim{number}" if victim.listens else "victim"
                    bench.start(host.ticket, replace(victim, name=name))
                    died = bench.wait(lambda name, what, at, members: what == "fault")
                    yield bench.wait(bench.is_commit_after(died)) - died
                    bench.reap()
            finally:
                bench.close()


def waits_for_the_host(count: int, parameters: int) -> Iterator[float]:
    """Seconds from the moment at which a restarted host listens to the next commit."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, parameters)
        toml, ticket = Path(folder) / "RUN.toml", Path(folder) / "ticket"
        toml.write_text("[run]\nrounds = 1000000\n[method]\npreset = 'local_sgd'\nsync_every = 10\n")
        try:
            with host_process(toml, ticket) as host:
                for index in range(MEMBERS):
                    bench.start(f"@{ticket}", Role("", "", f"w{index}", 0))
                for _ in range(MEMBERS):
                    bench.wait(lambda name, what, at, members: what == "active")
                bench.wait(lambda name, what, at, members: members == MEMBERS)
                host.send_signal(signal.SIGKILL)
                host.wait()
            for _ in range(count):
                ticket.unlink()
                with host_process(toml, ticket) as host:
                    listens = time.monotonic()
                    yield bench.wait(bench.is_commit_after(listens)) - listens
                    bench.wait(lambda name, what, at, members: members == MEMBERS)
                    host.send_signal(signal.SIGKILL)
                    host.wait()
        finally:
            bench.close()


@contextmanager
def host_process(toml: Path, ticket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A host in a process of its own; it writes its ticket once it listens."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=20, help="deaths of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    args = parser.parse_args()
    print(f"{'kind':<22}{'n':>5}{'median s':>10}{'worst s':>9}", flush=True)
    for kind in args.kinds:
        if kind == "host":
            found = waits_for_the_host(args.count, args.parameters)
        else:
            found = waits_of(kind, args.count, args.parameters)
        waits = []
        for wait_s in found:
            waits.append(wait_s)
            print(f"{kind}: {wait_s:.2f} s, load {os.getloadavg()[0]:.0f}", file=sys.stderr, flush=True)
        print(f"{kind:<22}{len(waits):>5}{statistics.median(waits):>10.2f}{max(waits):>9.2f}", flush=True)


if __name__ == "__main__":
    main()
