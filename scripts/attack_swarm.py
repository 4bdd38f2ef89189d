"""Attacks a real swarm with each role in turn, and prints what it cost the honest ones.

A host and three workers are processes on loopback and train a small vector. For a third of the time they are
alone, then one more process attacks, then it is killed, and the next one comes. Beside roles of the simulator
(`diloco.simulation.roles`) there are a flood of connections without a key, slow handshakes, rubbish at the
bulk port, huge messages, messages of very many parts, and a member that seals rubbish.

    scripts/attack --seconds 30
    scripts/attack --role liar flood --seconds 60
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack_strangers import HUGE
from attack_worker import NAMES, attack
from bench_death import host_process
from death_worker import Role, work
from fork_server import fork_server
from process_usage import num_descriptors, resident_mib

import diloco
from diloco.simulation.roles.registry import ROLES

NUM_HONEST = 3
_PARAMETERS = 20_000
_TURNS = {"flapper": 4, "sybil": 3}
"""Roles whose process is killed and started again, and how often they begin; a sybil under another name."""
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Phase:
    """How the honest ones did for a while."""

    commits_per_s: float
    looks: list[tuple[float, float, int]]
    """Resident MiB of the host and of a worker, and descriptors of the host, again and again."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one role cost."""

    role: str
    commits_per_s: tuple[float, ...]
    """As an honest worker sees them: before, during and after."""
    host_mib: tuple[float, ...]
    """Resident memory before, at its most, and at the end, a while after the attack."""
    worker_mib: tuple[float, ...]
    descriptors: tuple[float, ...]
    """Of the host, at the same moments."""
    ended: tuple[str, ...]
    """Honest processes that have ended."""
    expelled: tuple[str, ...]
    """Honest workers that are not in the run at the end."""

    @classmethod
    def of(
        cls, role: str, phases: tuple[Phase, Phase, Phase], ended: tuple[str, ...], expelled: tuple[str, ...]
    ) -> Costs:
        """From before, during and after."""
        before, during, after = (phase.looks for phase in phases)
        looks = [before[-1], *during, *after]
        host, worker = [look[0] for look in looks], [look[1] for look in looks]
        descriptors = [look[2] for look in looks]
        rates = tuple(phase.commits_per_s for phase in phases)
        return cls(role, rates, _moments(host), _moments(worker), _moments(descriptors), ended, expelled)

    def row(self) -> str:
        rates = "".join(f"{rate:>8.1f}" for rate in self.commits_per_s)
        figures = (*self.host_mib, *self.worker_mib, *self.descriptors)
        return (
            f"{self.role:<12}{rates}{''.join(f'{figure:>8.0f}' for figure in figures)}"
            f"  {', '.join(self.ended) or 'nobody'}; {', '.join(self.expelled) or 'nobody'}"
        )


def _moments(seen: Sequence[float]) -> tuple[float, float, float]:
    """Before, at most, and after."""
    return seen[0], max(seen), seen[-1]


_MOMENTS = f"{'before':>8}{'most':>8}{'after':>8}"
HEAD = (
    f"{'':<12}{'commits/s':>24}{'host MiB':>24}{'worker MiB':>24}{'host descriptors':>24}\n"
    f"{'role':<12}{'before':>8}{'during':>8}{'after':>8}{_MOMENTS * 3}"
    "  who ended; who was put out"
)


class Swarm:
    """The honest processes of one run, and an attacker."""

    def __init__(self, folder: Path, host: subprocess.Popen[bytes]) -> None:
        self.folder, self.host = folder, host
        self.ticket = f"@{folder / 'ticket'}"
        self._context = fork_server("death_worker")
        self._told = folder / "told"
        self._told.touch()
        self.honest = {name: self._start(work, self._role(name)) for name in self.names}
        self.attackers: list[Any] = []
        self._turn = 0

    @property
    def names(self) -> list[str]:
        return [f"honest{index}" for index in range(NUM_HONEST)]

    def _role(self, name: str) -> Role:
        return Role(str(self.folder), self.ticket, name, _PARAMETERS)

    def _start(self, what: Any, *given: Any) -> Any:
        process = self._context.Process(target=what, args=given)
        process.start()
        return process

    def attack(self, role: str) -> None:
        """Start the attacker, or its next process, and wait until it attacks: a member once it is active."""
        self._turn += 1
        name = f"{role}{self._turn}" if role == "sybil" else role
        begins = f"{name},active " if role in ROLES else f"{name},attacks,"
        before = self._told.read_text().count(begins)
        process = self._start(attack, role, self._role(name))
        self.attackers.append(process)
        give_up = time.monotonic() + _PATIENCE_S
        while self._told.read_text().count(begins) == before and time.monotonic() < give_up:
            if not process.is_alive():
                return  # it was put out
            time.sleep(0.02)

    def watch(self, seconds: float, turn: Callable[[], None] = lambda: None) -> Phase:
        """How the honest ones do for so long, and longer on a busy machine: until somebody commits."""
        began, commits, looks = time.monotonic(), self.commits(), [self.look()]
        while (now := time.monotonic()) < began + seconds or (
            self.commits() == commits and now < began + _PATIENCE_S
        ):
            time.sleep(0.1)
            turn()
            looks.append(self.look())
        return Phase((self.commits() - commits) / (now - began), looks)

    def stop_attack(self) -> None:
        for process in self.attackers:
            process.kill()
            process.join()
        self.attackers = []

    def commits(self) -> int:
        """Commits that the first honest worker heard of."""
        return self._told.read_text().count(f"{self.names[0]},committed,")

    def wait_until_all_commit(self) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while not any(line.endswith(f",{NUM_HONEST}") for line in self._told.read_text().splitlines()):
            if time.monotonic() > give_up or self.host.poll() is not None:
                raise SystemExit("attack: the honest ones alone do not commit")
            time.sleep(0.05)

    def look(self) -> tuple[float, float, int]:
        """Resident MiB of the host and of an honest worker, and descriptors of the host."""
        host, worker = self.host.pid, self.honest[self.names[0]].pid
        return resident_mib(host), resident_mib(worker), num_descriptors(host)

    def ended(self) -> tuple[str, ...]:
        gone = [name for name, process in self.honest.items() if not process.is_alive()]
        return ("host", *gone) if self.host.poll() is not None else tuple(gone)

    def expelled(self) -> tuple[str, ...]:
        """Who is not in the run, as the host tells whoever holds a ticket."""
        try:
            found = diloco.status((self.folder / "ticket").read_text().strip())
        except diloco.DilocoError:
            return ("the host does not answer",)
        here = {each["name"] for each in found["members"]}
        return tuple(name for name in self.names if name not in here)

    def close(self) -> None:
        self.stop_attack()
        for process in self.honest.values():
            process.kill()
            process.join()


@contextmanager
def running_swarm() -> Iterator[Swarm]:
    """A host and the honest workers, all of them in one commit."""
    with tempfile.TemporaryDirectory() as folder:
        fork_server("death_worker")  # it imports while the host starts
        toml, ticket = Path(folder) / "RUN.toml", Path(folder) / "ticket"
        toml.write_text(
            "[run]\nrounds = 1000000\nfailure_timeout_s = 3\ngrace_s = 3\nmin_peers = 2\n"
            "[method]\npreset = 'local_sgd'\nsync_every = 10\n"
        )
        with host_process(toml, ticket) as host:
            swarm = Swarm(Path(folder), host)
            try:
                swarm.wait_until_all_commit()
                yield swarm
            finally:
                swarm.close()


def play(roles: Sequence[str], seconds: float) -> Iterator[Costs]:
    """Attack one swarm with each role in turn, for a third of ``seconds``; what comes after one role is what
    was before the next."""
    with running_swarm() as swarm:
        before = swarm.watch(seconds / 3)
        for role in roles:
            during = _attacked(swarm, role, seconds / 3)
            after = swarm.watch(seconds / 3)
            yield Costs.of(role, (before, during, after), swarm.ended(), swarm.expelled())
            before = after


def _attacked(swarm: Swarm, role: str, phase_s: float) -> Phase:
    swarm.attack(role)
    turn_s = phase_s / _TURNS.get(role, 1)
    turned = time.monotonic()

    def was_cut() -> bool:
        """libzmq ends a process whose connection is cut while a message of many parts is half sent."""
        return role in HUGE and swarm.attackers[0].exitcode == -signal.SIGABRT

    def turn() -> None:
        nonlocal turned
        if was_cut():
            swarm.attackers.pop(0)
            swarm.attack(role)
        if role not in _TURNS or time.monotonic() < turned + turn_s:
            return
        if role == "flapper" or len(swarm.attackers) > 2:
            swarm.attackers[0].kill()
            swarm.attackers.pop(0).join()
        swarm.attack(role)
        turned = time.monotonic()

    phase = swarm.watch(phase_s, turn)
    if role not in ROLES and not swarm.attackers[0].is_alive() and not was_cut():
        raise SystemExit(f"attack: the {role} has ended by itself")
    swarm.stop_attack()
    return phase


def main(arguments: Sequence[str] | None = None) -> list[Costs]:
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each role, all three phases")
    parser.add_argument(
        "--role", nargs="+", choices=NAMES, default=NAMES, metavar="ROLE", help=", ".join(NAMES)
    )
    args = parser.parse_args(arguments)
    print(HEAD, flush=True)
    found = []
    for costs in play(args.role, args.seconds):
        found.append(costs)
        print(costs.row(), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(any(costs.ended or costs.expelled for costs in main()))
