"""What lies between the access links of simulated peers: latency, shared lines, lost packets.

Connections lose nothing, as TCP's do not: a lost packet is a delay of a round trip, and less throughput.
Draws come from the streams that are handed over; without loss nothing is drawn for it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from transport.simnet.links import NS, Endpoint, Pipe

PACKET_BYTES = 1460


@dataclass(frozen=True, slots=True)
class Route:
    """What lies between two peers, one way."""

    latency_s: float = 0.0
    jitter: float = 0.1
    """Extra delay of a frame, up to this share of the latency."""
    pipes: tuple[Pipe, ...] = ()
    """Lines that a frame passes in this order, each shared by all flows that use the same object."""
    loss: float = 0.0
    """Share of packets that are lost."""


def any_lost(size_bytes: int, loss: float) -> float:
    """Probability that a frame is delayed by a retransmission."""
    return 1.0 - (1.0 - loss) ** -(-size_bytes // PACKET_BYTES)


def mathis_rate(round_trip_s: float, loss: float) -> float:
    """Bytes per second that TCP reaches at most with random loss: 1.22 packets per round trip over the square
    root of the loss (Mathis, Semke, Mahdavi and Ott, 1997)."""
    return 1.22 * PACKET_BYTES / (max(1e-6, round_trip_s) * math.sqrt(loss))


class Paths:
    """The way from one process to another."""

    def __init__(
        self,
        route: Callable[[bytes, bytes], Route | None] | None,
        jitter: random.Random,
        losses: random.Random,
    ) -> None:
        self._route = route
        self._jitter = jitter
        self._losses = losses
        self._capped: dict[tuple[bytes, bytes], Pipe] = {}
        """What TCP reaches between two peers that lose packets."""

    def latency_ns(self, one: Endpoint, two: Endpoint) -> int:
        """One way, drawn anew for each frame."""
        base = one.access.latency_s * one.factor + two.access.latency_s * two.factor
        total = base * (1 + self._jitter.random() * max(one.access.jitter, two.access.jitter))
        if self._route is not None and (route := self._route(one.key, two.key)) is not None:
            total += route.latency_s * (1 + self._jitter.random() * route.jitter)
        return round(total * NS)

    def distance_s(self, one: Endpoint, two: Endpoint) -> float:
        """The least that anything takes one way."""
        base = one.access.latency_s * one.factor + two.access.latency_s * two.factor
        route = self._of(one, two)
        return base + (route.latency_s if route is not None else 0.0)

    def resent_ns(self, one: Endpoint, two: Endpoint, size_bytes: int, now: int = 0) -> int:
        """What lost packets, and a link that stalls at ``now``, delay a frame by. TCP sends a lost packet
        again after a round trip. It doubles its wait from try to try: the first try after a stall comes up to
        as long after its end as the stall took, and if that is lost, the next one twice as late."""
        loss = self._loss(one, two)
        is_lost = loss > 0.0 and self._losses.random() < any_lost(size_bytes, loss)
        stalled = max(one.stalled_until, two.stalled_until) - now
        if stalled > 0:
            return round(stalled * (1 + self._losses.random()) * (1 + is_lost))
        return round(self._round_trip_s(one, two) * NS) if is_lost else 0

    def pipes(self, one: Endpoint, two: Endpoint) -> list[Pipe]:
        """The lines that bulk passes, in order."""
        route, loss = self._of(one, two), self._loss(one, two)
        pipes = list(route.pipes) if route else []
        if loss > 0.0:
            capped = self._capped.setdefault((one.key, two.key), Pipe(1.0))
            capped.rate = mathis_rate(self._round_trip_s(one, two), loss)
            pipes.append(capped)
        return pipes

    def is_plain(self, one: Endpoint, two: Endpoint) -> bool:
        """Nothing lies between the two access links, and they lose nothing."""
        return self._route is None and not one.access.loss and not two.access.loss

    def _of(self, one: Endpoint, two: Endpoint) -> Route | None:
        return None if self._route is None else self._route(one.key, two.key)

    def _loss(self, one: Endpoint, two: Endpoint) -> float:
        route = self._of(one, two)
        return 1 - (1 - one.access.loss) * (1 - two.access.loss) * (1 - (route.loss if route else 0.0))

    def _round_trip_s(self, one: Endpoint, two: Endpoint) -> float:
        ways = [way.latency_s for way in (self._of(one, two), self._of(two, one)) if way is not None]
        return 2 * (one.access.latency_s * one.factor + two.access.latency_s * two.factor) + sum(ways)
