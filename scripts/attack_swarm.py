"""Attacks a real swarm with each role in turn, and prints what it cost the honest ones.

A host and three workers are processes on loopback and train a small vector. For a third of the time they are
alone, then one more process attacks, then it is killed. Beside roles of the simulator (`diloco.simulation.
roles`) there are a flood of connections without a key, slow handshakes, huge messages, and messages of very
many parts.

    scripts/attack --seconds 30
    scripts/attack --role liar flood --seconds 60
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack_worker import NAMES, attack
from bench_death import host_process
from death_worker import Role, work
from fork_server import fork_server
from process_usage import num_descriptors, resident_mib

from diloco.simulation.roles.registry import ROLES

NUM_HONEST = 3
_PARAMETERS = 20_000
_TURN_S = {"flapper": 1.0, "sybil": 2.5}
"""Roles whose process is killed and started again so often; a sybil's under another name."""
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What one role cost."""

    role: str
    commits_per_s: tuple[float, float, float]
    """As an honest worker sees them: before, during and after."""
    host_mib: tuple[float, float, float]
    """Resident memory before, at its most, and at the end, a while after the attack."""
    worker_mib: tuple[float, float, float]
    descriptors: tuple[int, int, int]
    """Of the host, at the same moments."""
    ended: tuple[str, ...]
    """Honest processes that have ended."""
    expelled: tuple[str, ...]
    """Honest workers that are not in the run at the end."""

    def row(self) -> str:
        rates = "".join(f"{rate:>8.1f}" for rate in self.commits_per_s)
        figures = (*self.host_mib, *self.worker_mib, *self.descriptors)
        return (
            f"{self.role:<12}{rates}{''.join(f'{figure:>8.0f}' for figure in figures)}"
            f"  {', '.join(self.ended) or 'nobody'}; {', '.join(self.expelled) or 'nobody'}"
        )


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
        """Start the attacker, or its next process."""
        self._turn += 1
        name = f"{role}{self._turn}" if role == "sybil" else role
        before = self._attacks()
        self.attackers.append(self._start(attack, role, self._role(name)))
        give_up = time.monotonic() + _PATIENCE_S
        while self._attacks() == before and time.monotonic() < give_up:
            time.sleep(0.02)

    def _attacks(self) -> int:
        return self._told.read_text().count(",attacks,")

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
        command = [sys.executable, "-m", "diloco.cli", "status", self.ticket, "--json"]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if found.returncode:
            return ("the host does not answer",)
        here = {each["name"] for each in json.loads(found.stdout)["members"]}
        return tuple(name for name in self.names if name not in here)

    def close(self) -> None:
        self.stop_attack()
        for process in self.honest.values():
            process.kill()
            process.join()


def costs_of(role: str, seconds: float) -> Costs:
    """Attack one swarm with one role, for a third of ``seconds``."""
    with tempfile.TemporaryDirectory() as folder:
        toml, ticket = Path(folder) / "RUN.toml", Path(folder) / "ticket"
        toml.write_text(
            "[run]\nrounds = 1000000\nfailure_timeout_s = 3\ngrace_s = 3\nmin_peers = 2\n"
            "[method]\npreset = 'local_sgd'\nsync_every = 10\n"
        )
        with host_process(toml, ticket) as host:
            swarm = Swarm(Path(folder), host)
            try:
                return _attacked(swarm, role, seconds / 3)
            finally:
                swarm.close()


def _attacked(swarm: Swarm, role: str, phase_s: float) -> Costs:
    swarm.wait_until_all_commit()
    rates, seen = [], [swarm.look()]
    for phase in ("before", "during", "after"):
        if phase == "during":
            swarm.attack(role)
        began, commits, turned = time.monotonic(), swarm.commits(), time.monotonic()
        while (now := time.monotonic()) < began + phase_s:
            time.sleep(0.1)
            if phase == "before":
                seen[0] = swarm.look()
                continue
            seen.append(swarm.look())
            if phase == "during" and now - turned > _TURN_S.get(role, phase_s):
                turned = now
                if role == "flapper" or len(swarm.attackers) > 2:
                    swarm.attackers[0].kill()
                    swarm.attackers.pop(0).join()
                swarm.attack(role)
        rates.append((swarm.commits() - commits) / phase_s)
        if phase == "during" and role not in ROLES and not swarm.attackers[0].is_alive():
            raise SystemExit(f"attack: the {role} has ended by itself")
        swarm.stop_attack()
    hosts, workers, descriptors = zip(*seen, strict=True)
    return Costs(
        role,
        (rates[0], rates[1], rates[2]),
        (hosts[0], max(hosts), hosts[-1]),
        (workers[0], max(workers), workers[-1]),
        (descriptors[0], max(descriptors), descriptors[-1]),
        swarm.ended(),
        swarm.expelled(),
    )


def main(arguments: Sequence[str] | None = None) -> list[Costs]:
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each role, all three phases")
    parser.add_argument(
        "--role", nargs="+", choices=NAMES, default=NAMES, metavar="ROLE", help=", ".join(NAMES)
    )
    args = parser.parse_args(arguments)
    print(HEAD, flush=True)
    found = []
    for role in args.role:
        found.append(costs_of(role, args.seconds))
        print(found[-1].row(), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(any(costs.ended or costs.expelled for costs in main()))
