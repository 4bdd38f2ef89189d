"""What a simulated network is made of: processes with access links, connections, partitions and cuts.

Several processes may hold one key at the same time, as a clone does: a connection belongs to the two
processes that it joins, not to their keys. Plain state and arithmetic in integer nanoseconds; the heap
of events is `transport.simnet.network`'s. It draws nothing at random and knows no protocol.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from transport.effects import Core, KeepResult, Send
from transport.guarded import Guarded
from transport.in_order import InOrder
from transport.redial import Bars, Redial
from transport.yielding import Uplink

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
    loss: float = 0.0
    """Share of packets that are lost on it."""


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
        begins = now if now > self.free_at else self.free_at
        self.free_at = begins + self.time(size_bytes, factor)
        return self.free_at


@dataclass(slots=True)
class Queued:
    """What of one kind waits at the head of a pipe."""

    _frames: deque[tuple[int, int]] = field(default_factory=deque)
    """When each has left, and how long it takes, in ns; in the order of leaving."""

    def put(self, leaves: int, takes: int) -> None:
        """One more frame of that kind."""
        self._frames.append((leaves, takes))

    def ahead(self, now: int) -> int:
        """How long those take that have not left, in ns."""
        frames = self._frames
        while frames and frames[0][0] <= now:
            frames.popleft()
        return sum(min(takes, leaves - now) for leaves, takes in frames)


@dataclass(slots=True, eq=False)
class HeldFrame:
    """A frame of bulk that leaves in slices, between which a stream has its turn."""

    connection: SimConnection
    to: Endpoint
    effect: Send
    left_bytes: int
    """So much has not left."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One process: a life of the peer that its key names."""

    key: bytes
    core: Core
    access: Access
    on_event: Callable[[float, object], None]
    address: str
    """Where it listens; nothing means wherever its key is dialled."""
    journal: list[bytes]
    """Shared by all lives of one key."""
    keep: Callable[[KeepResult], None] | None = None
    """Puts a result on the disk; raises `OSError` where that takes none."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of headers and payloads that all lives of the key sent, by purpose."""
    received: Counter[str] = field(default_factory=Counter)
    """Those that were sent to them."""
    guarded: Guarded = field(init=False)
    """The core as the network calls it: an input that fails is lost."""
    up: Pipe = field(init=False)
    down: Pipe = field(init=False)
    alive: bool = True
    frozen: bool = False
    order: InOrder | None = None
    """Its effects over a journal that failed once; one that never did needs none."""
    retries_at: float = 0.0
    """When it tries the journal again, in seconds."""
    backlog: deque[Callable[[], None]] = field(default_factory=deque)
    events: deque[object] = field(default_factory=deque)
    """For the program above, which is called for each at the time at which it came."""
    timer: int = 0
    """When the armed timer fires, in ns; 0 for none."""
    armed_for: float = 0.0
    """The core's deadline then, in seconds."""
    effects_left: int | None = None
    """It crashes after this many more effects."""
    factor: float = 1.0
    """Slows its link by this."""
    stalled_until: int = 0
    """Until then its link carries nothing, in ns."""
    dialling: dict[bytes, dict[int, Redial]] = field(default_factory=dict)
    """By key and number, the lanes that are dialled."""
    connections: dict[SimConnection, None] = field(default_factory=dict)
    dialled: dict[tuple[bytes, int], SimConnection] = field(default_factory=dict)
    accepted: dict[tuple[bytes, int], SimConnection] = field(default_factory=dict)
    """By key and lane, the newest connection over which something came: it carries what is sent back."""
    bars: Bars = field(default_factory=Bars)
    uplink: Uplink = field(default_factory=Uplink)
    held: deque[HeldFrame] = field(default_factory=deque)
    """Bulk that waits before its access link, while a stream is under way."""
    bulk: Queued = field(default_factory=Queued)
    """That of the held which was let go while a stream was under way, before its access link."""
    behind_bulk_ns: int = 0
    """The longest that a frame of a stream waited for such, beside the share of the line that this has."""
    releases_at: int = 0
    """When it is looked at again whether some of it may leave, in ns; 0 for not at all."""

    def __post_init__(self) -> None:
        self.guarded = Guarded(self.core)
        self.up, self.down = Pipe(self.access.up), Pipe(self.access.down)

    @property
    def stands_still(self) -> bool:
        """It takes no input: it is stopped, or what it decided cannot be stored."""
        return self.frozen or (self.order is not None and self.order.is_held)


Who = bytes | Endpoint
"""A process, or all that have a key."""


def _names(who: Who) -> tuple[Who, ...]:
    return (who, who.key) if isinstance(who, Endpoint) else (who,)


def key_of(who: Who) -> bytes:
    """The key of a process, or the key itself."""
    return who.key if isinstance(who, Endpoint) else who


@dataclass(slots=True, eq=False)
class SimConnection:
    """One lane between a dialer and an acceptor: ordered, and nothing is lost while it stands."""

    dialer: Endpoint
    acceptor: Endpoint
    lane: int
    plain: bool
    """Nothing lies between the two access links, and they lose nothing."""
    up: bool = False
    heard: bool = False
    """Something came over it to the acceptor, which answers there."""
    closed_by: Endpoint | None = None
    """Who hung up, and takes nothing more of what waits there."""
    slices: dict[Endpoint, tuple[int, int]] = field(default_factory=dict)
    """By sender, bytes in all that left in slices, and those of them that came."""
    landed: dict[Endpoint, int] = field(default_factory=dict)
    """By receiver, when the last frame of a stream is there whole."""
    _last_to_dialer: int = 0
    _last_to_acceptor: int = 0

    def joins(self, a: Who, b: Who) -> bool:
        dialer, acceptor = _names(self.dialer), _names(self.acceptor)
        return (a in dialer and b in acceptor) or (b in dialer and a in acceptor)

    def in_order(self, to: Endpoint, at: int) -> int:
        """The first moment from ``at`` on that keeps the order of what travels to ``to``."""
        if to is self.dialer:
            if at <= self._last_to_dialer:
                at = self._last_to_dialer + 1
            self._last_to_dialer = at
        else:
            if at <= self._last_to_acceptor:
                at = self._last_to_acceptor + 1
            self._last_to_acceptor = at
        return at


@dataclass(slots=True)
class Faults:
    """Who cannot reach whom just now."""

    groups: dict[bytes, int] = field(default_factory=dict)
    cuts: set[frozenset[Who]] = field(default_factory=set)

    def is_cut(self, a: Who, b: Who) -> bool:
        """Whether two peers are parted. Who is in no group is with the first."""
        if self.groups.get(key_of(a), 0) != self.groups.get(key_of(b), 0):
            return True
        return bool(self.cuts) and any(frozenset((x, y)) in self.cuts for x in _names(a) for y in _names(b))

    def heal(self) -> None:
        self.groups, self.cuts = {}, set()
