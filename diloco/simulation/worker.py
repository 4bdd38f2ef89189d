"""One life of a simulated worker: what it trains, how far it is, and who watches it.

Facts only; the engine decides when it steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from diloco.loop.outer_loop import OuterLoop, Replica
from diloco.loop.throughput import Throughput
from diloco.simulation.pace import Clockwork, Peer
from diloco.simulation.report.report import Activity
from peers.node import Node
from peers.protocol.application import Application
from peers.protocol.commands import Command
from transport.effects import NEVER, Effect
from transport.simnet.links import Endpoint


class WorkerReplica(Replica, Application, Protocol):
    """What a worker's loop moves and its member hands out."""


@dataclass(slots=True)
class Trainer:
    """What one life of a worker trains."""

    replica: WorkerReplica
    elements: tuple[int, ...]
    """Length of each fragment's contribution."""
    step: Callable[[], float] | None = None
    """One inner step; its loss. None for phantoms."""
    names_sha256: bytes = bytes(32)
    shapes_sha256: bytes = bytes(32)


class Watcher(Protocol):
    """Sees everything, changes nothing."""

    def effect(self, now: float, name: str, effect: Effect) -> None:
        """A node's effect is carried out; frames are only counted, by the network."""

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        """A worker does something else from now on; None once it has ended for good."""

    def event(self, now: float, worker: Worker, event: object) -> None:
        """A worker's training takes an event of its member."""

    def command(self, now: float, worker: Worker, command: Command) -> None:
        """A worker's loop tells its member something."""

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        """So many inner steps more are done."""


@dataclass(eq=False, slots=True)
class Worker:
    """One life of one peer."""

    peer: Peer
    life: int
    node: Node
    process: Endpoint
    trainer: Trainer
    loop: OuterLoop
    clockwork: Clockwork
    speed: Throughput
    sent_before: int
    """Bytes that earlier lives of the peer sent."""
    steps: int = 0
    tokens: int = 0
    loss: float = 0.0
    waited_s: float = 0.0
    ended: bool = False
    """It left, was refused, or was superseded."""
    activity: Activity | None = None
    since_s: float = 0.0
    inbox: list[object] = field(default_factory=list)
    block: list[float] = field(default_factory=list)
    """When each of the inner steps under way ends."""
    block_began_s: float = 0.0
    token: int = 0
    """Names the block: the end of one with another name is void."""
    wakes_ns: int = 0
    """When it looks again whether it still waits; 0 for not at all."""
    reported_s: float = NEVER
    was_active: bool = False
    frozen_s: float = 0.0

    @property
    def name(self) -> str:
        return self.peer.name

    @property
    def bytes_sent(self) -> int:
        return self.process.sent.total() - self.sent_before

    @property
    def runs(self) -> bool:
        return self.process.alive and not self.process.frozen and not self.ended
