"""What stands between simulated peers: access links with rates, connections, partitions and cuts.

Plain state and arithmetic in integer nanoseconds; the heap of events is `transport.simnet`'s. It draws
nothing at random and knows no protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Access:
    """How one peer is joined to the network; rates in bytes per second, latency one way in seconds.
    A frame between two peers takes the latencies of both."""

    up: float = 12.5e6
    down: float = 12.5e6
    latency_s: float = 0.02
    jitter: float = 0.1
    """Extra delay of a frame, up to this share of the latency."""


@dataclass(slots=True)
class Pipe:
    """One direction of an access link: what is put in leaves in that order, at the rate."""

    rate: float
    free_at: int = 0
    """When the last byte put in so far has left, in ns."""

    def time(self, size_bytes: int, factor: float) -> int:
        """How long a frame takes by itself, in ns."""
        return round(size_bytes / self.rate * factor * NS)

    def put(self, now: int, size_bytes: int, factor: float) -> int:
        """Put a frame in; when its last byte has left, in ns."""
        self.free_at = max(now, self.free_at) + self.time(size_bytes, factor)
        return self.free_at


@dataclass(slots=True, eq=False)
class Connection:
    """One lane between a dialer and an acceptor: ordered, and nothing is lost while it stands."""

    dialer: bytes
    acceptor: bytes
    lane: int
    up: bool = False
    _last: dict[bytes, int] = field(default_factory=dict)

    def joins(self, a: bytes, b: bytes) -> bool:
        return (self.dialer, self.acceptor) in ((a, b), (b, a))

    def in_order(self, to: bytes, at: int) -> int:
        """The first moment from ``at`` on that keeps the order of what travels to ``to``."""
        at = max(at, self._last.get(to, 0) + 1)
        self._last[to] = at
        return at


@dataclass(slots=True)
class Faults:
    """Who cannot reach whom just now."""

    groups: dict[bytes, int] = field(default_factory=dict)
    cuts: set[frozenset[bytes]] = field(default_factory=set)

    def part(self, a: bytes, b: bytes) -> bool:
        """Whether two peers are parted. Who is in no group is with the first."""
        return self.groups.get(a, 0) != self.groups.get(b, 0) or frozenset((a, b)) in self.cuts

    def heal(self) -> None:
        self.groups, self.cuts = {}, set()
