"""A small swarm of phantoms on fast links, and a watcher that remembers; for tests of what drives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

from diloco.settings import RunSettings
from diloco.simulation.engine import Engine
from diloco.simulation.pace import Peer
from diloco.simulation.phantom import PhantomReplica, phantom_limits
from diloco.simulation.report.report import Activity
from diloco.simulation.worker import Trainer, Worker
from peers.protocol.commands import Command
from transport.effects import Effect
from transport.simnet.links import Access

FAST = Access(up=1e9, down=1e9, latency_s=0.001, jitter=0.0)
EVERY = 10
PARAMETERS = 1000


def settings(**run: Any) -> RunSettings:
    """H is 10."""
    run = {"rounds": 3, "failure_timeout_s": 2.0, "grace_s": 8.0, **run}
    return RunSettings.model_validate({"run": run, "method": {"preset": "diloco", "sync_every": EVERY}})


def phantom(peer: Peer, life: int) -> Trainer:
    """Sizes of a model with so many parameters."""
    method = settings().method.resolved()
    limits = phantom_limits(method, PARAMETERS, None, 4)
    replica = PhantomReplica(method, PARAMETERS, None, f"{peer.name} {life}", limits.payload_bytes)
    return Trainer(replica, replica.elements)


@dataclass
class Memory:
    """A watcher."""

    activities: dict[str, list[tuple[float, Activity | None]]] = field(default_factory=dict)
    steps: list[tuple[str, int]] = field(default_factory=list)
    events: list[tuple[float, str, object]] = field(default_factory=list)
    commands: list[tuple[str, Command]] = field(default_factory=list)

    def effect(self, now: float, name: str, effect: Effect) -> None:
        """Not remembered."""

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        self.activities.setdefault(worker.name, []).append((now, activity))

    def event(self, now: float, worker: Worker, event: object) -> None:
        self.events.append((now, worker.name, event))

    def command(self, now: float, worker: Worker, command: Command) -> None:
        self.commands.append((worker.name, command))

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        self.steps.append((worker.name, steps))

    def did(self, name: str) -> list[Activity | None]:
        """What a worker did, in order."""
        return [activity for _, activity in self.activities[name]]

    def seconds(self, name: str, wanted: Activity) -> float:
        """How long a worker did it, all over."""
        pairs = pairwise(self.activities[name])
        return sum(end - begin for (begin, activity), (end, _) in pairs if activity == wanted)


def swarm(
    *peers: Peer,
    num_steps: int | None = None,
    make_trainer: Callable[[Peer, int], Trainer] = phantom,
    **run: Any,
) -> tuple[Engine, Memory]:
    """An engine that has begun."""
    memory, found = Memory(), settings(**run)
    limits = phantom_limits(found.method.resolved(), PARAMETERS, None, 4)
    engine = Engine(
        found, peers, make_trainer, host=FAST, limits=limits, num_steps=num_steps, watchers=[memory]
    )
    engine.begin()
    return engine, memory


def trains(peer: Peer, life: int) -> Trainer:
    """A phantom whose every step is taken, with a loss that falls from 100."""
    trainer, losses = phantom(peer, life), count(100, -1)
    trainer.step = lambda: float(next(losses))
    return trainer


def pair(**of_second: Any) -> tuple[Peer, Peer]:
    """Two peers, alike but for ``of_second``."""
    return Peer("a", FAST), Peer("b", FAST, **of_second)
