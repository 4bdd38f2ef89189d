"""What tests of the outer loop share: a replica that remembers, commits, and inner steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diloco.errors import NonFiniteContribution
from diloco.loop.outer_loop import OuterLoop
from diloco.loop.replica import Replica
from diloco.methods.schedule import Schedule
from peers.protocol.events import (
    BecameActive,
    RoundCommitted,
)
from peers.protocol.record import GENESIS, Record
from transport.collectives.reducer import NumpyReducer, Reducer

WAIT_S = 30.0


@dataclass
class Recorder:
    """A replica that only remembers what was asked of them."""

    calls: list[tuple[object, ...]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    broken: bool = False
    """What is learned is not finite."""
    infinite: set[int] = field(default_factory=set)
    """Fragments whose local parameters are not finite."""
    every: int = 4
    tells_offers: bool = False
    next_is_sketch: bool = False
    two_exchanges: bool = False
    """The method has a sketch in each outer step: rounds take turns."""

    def sketches(self, fragment: int) -> bool:
        return self.next_is_sketch

    def contribution_again(self, fragment: int) -> tuple[Reducer, float]:
        self.calls += [("again", fragment)] if self.tells_offers else []
        if self.broken:
            raise NonFiniteContribution(3, "values are not finite")
        return NumpyReducer(1), 1.0

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        self.calls += [("offer", fragment)] if self.tells_offers else []
        if self.broken or fragment in self.infinite:
            raise NonFiniteContribution(3, "values are not finite")
        return NumpyReducer(1), 1.0

    def count(self, fragment: int) -> int:
        return len(self.shares)

    def sync_every(self, fragment: int) -> int:
        return self.every

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        self.shares.append(share)
        self.calls.append(("sketch" if self.next_is_sketch else "apply", fragment, ours is not None))
        self.next_is_sketch = self.two_exchanges and not self.next_is_sketch

    def land(self, fragment: int, ours: Reducer | None, on_time: bool) -> None:
        self.calls.append(("land", fragment, ours is not None, on_time))

    def is_finite(self, fragment: int) -> bool:
        return fragment not in self.infinite

    def reset(self, fragment: int, offered: Reducer | None) -> None:
        self.infinite.discard(fragment)
        self.calls.append(("reset", fragment, offered is not None))

    def mend(self) -> list[str]:
        return ["moments began anew"]

    def discard(self, fragment: int) -> None:
        self.calls.append(("discard", fragment))

    def load(self, fragment: int, data: bytearray) -> None:
        self.calls.append(("load", fragment))

    def digest(self, fragment: int) -> bytes:
        return bytes([fragment]) * 32

    def check(self, fragment: int) -> bytes:
        return bytes([fragment]) * 16


def record(fragment: int = 0) -> Record:
    return Record(GENESIS, 1, fragment, 0, 7, 1, (b"k" * 32,), (1.0,), b"r" * 32)


def committed(number: int | None, fragment: int = 0, behind: int = 0) -> RoundCommitted:
    weight = 1.0 if number is not None else 0.0
    return RoundCommitted(record(fragment), NumpyReducer(1), number, 8, weight, 0.1, behind)


def schedule(num_fragments: int = 1, delay: int = 0, **more: Any) -> Schedule:
    """H is 4."""
    offsets = tuple((f + 1) * 4 // num_fragments for f in range(num_fragments))
    return Schedule((4,) * num_fragments, offsets, delay, more.pop("offers_before_landing", False), **more)


def active_loop(replica: Replica, **of_schedule: Any) -> OuterLoop:
    loop = OuterLoop(schedule(**of_schedule), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    return loop


def step(loop: OuterLoop, times: int, now: float = 0.0) -> list[object]:
    """Inner steps of 2 tokens; every offer is taken."""
    said: list[object] = []
    for _ in range(times):
        loop.count(2)
        for command in loop.due(now):
            said.append(command)
            loop.told(command, True)
    return said
