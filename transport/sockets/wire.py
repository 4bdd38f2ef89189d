"""Small parts of the socket driver that need no socket: shape of a message, queue, pace, connections.

A wire message is one part, in both directions: the payload, the header, and a tail that tells how long the
header is, whether there is a payload, and the lane. libzmq ends the process where a connection is cut while a
message of several parts is half sent; the payload comes first since it lies as memory is given then. All
bounds come from `Limits`. Nothing here does IO or reads a clock. Keeps R4, X1 and X2.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from transport.effects import STREAM_LANE, size_bytes
from transport.errors import BadMessage
from transport.limits import Limits

_TAIL = struct.Struct(">HB")
TAIL_BYTES = _TAIL.size
_HAS_PAYLOAD = 1 << 15
DRIVER_LANE = 255
"""What two drivers say to each other is on this lane of the control connection: it has no payload."""
FORGOTTEN = 4096
"""Closed connections that are remembered, so that what they had sent before is not taken."""


def is_lane(number: int, limits: Limits) -> bool:
    """Whether a core may have such a lane."""
    return number <= limits.lanes or number == STREAM_LANE


def parse(parts: Sequence[memoryview], limits: Limits) -> tuple[int, bytes, memoryview | None]:
    """Lane, header and payload of a message. Raises `BadMessage`. Copies the header only."""
    if len(parts) != 1:
        raise BadMessage("a message has several parts, as those of an older diloco had: install the same one")
    (frame,) = parts
    if frame.nbytes < TAIL_BYTES:
        raise BadMessage("a message is too short")
    ends = frame.nbytes - TAIL_BYTES
    length, lane = _TAIL.unpack_from(frame, ends)
    has_payload, length = bool(length & _HAS_PAYLOAD), length & ~_HAS_PAYLOAD
    begins = ends - length
    if begins < 0 or (begins and not has_payload):
        raise BadMessage("a message is not as long as it says")
    if not is_lane(lane, limits) and (lane != DRIVER_LANE or has_payload):
        raise BadMessage(f"the lane is not one of 0 to {limits.lanes}")
    if length > limits.header_bytes:
        raise BadMessage(f"a header of {length} bytes exceeds {limits.header_bytes}")
    if begins > limits.payload_bytes:
        raise BadMessage(f"a payload of {begins} bytes exceeds {limits.payload_bytes}")
    return lane, bytes(frame[begins:ends]), frame[:begins] if has_payload else None


def frame_of(lane: int, header: bytes, payload: bytes | bytearray | memoryview | None = None) -> bytes:
    """A message as it goes over the wire; the payload is copied."""
    assert len(header) < _HAS_PAYLOAD, "headers are bounded"
    if payload is None:
        return header + _TAIL.pack(len(header), lane)
    return b"".join((payload, header, _TAIL.pack(len(header) | _HAS_PAYLOAD, lane)))


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message of ours, and what it counts as."""

    lane: int
    header: bytes = field(repr=False)
    """What two drivers say to each other has secrets in it."""
    payload: bytes | bytearray | memoryview | None
    purpose: str
    again: bool

    @property
    def size_bytes(self) -> int:
        """What it is long on the wire."""
        return size_bytes(self.payload) + len(self.header) + TAIL_BYTES


class Outbox:
    """Messages that a full socket did not take yet, in order. At its bound, the driver resets the
    connection: a message is never lost while the connection stands."""

    def __init__(self, limits: Limits) -> None:
        self.waiting: deque[Outgoing] = deque()
        """To be looked at only: every turn of a driver asks many of these whether there is something."""
        self._waiting_bytes = 0
        self._max_frames = 4 * limits.control_queue
        self._max_bytes = 2 * limits.largest_window

    def __len__(self) -> int:
        return len(self.waiting)

    def push(self, message: Outgoing) -> bool:
        """Add at the end; False when there is no room."""
        if len(self.waiting) >= self._max_frames or self._waiting_bytes >= self._max_bytes:
            return False
        self.waiting.append(message)
        self._waiting_bytes += message.size_bytes
        return True

    def peek(self) -> Outgoing:
        """The first message."""
        return self.waiting[0]

    def pop(self) -> None:
        """The first message has left."""
        self._waiting_bytes -= self.waiting.popleft().size_bytes

    def clear(self) -> None:
        """The connection is gone, and what waited with it."""
        self.waiting.clear()
        self._waiting_bytes = 0


class RateLimiter:
    """At most ``per_minute`` events, with bursts of a quarter of that."""

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / 60
        self._most = max(1.0, per_minute / 4)
        self._left = self._most
        self._seen: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more may happen now."""
        if self._seen is not None:
            self._left = min(self._most, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class AcceptedConnection:
    """A connection that a member opened to us, known by the id that the socket gave it."""

    peer: bytes
    lane: int
    route: bytes
    handle: tuple[int, object] | None
    """What the driver needs to break it: descriptor and remote end."""
    outbox: Outbox
    num_sent: int = 0
    """Bytes of messages that were handed over, as on the wire."""


@dataclass(slots=True)
class AcceptedConnections:
    """Which accepted connection carries which lane of which peer: the newest does."""

    limits: Limits
    _current: dict[tuple[bytes, int], AcceptedConnection] = field(default_factory=dict)
    _by_route: dict[bytes, AcceptedConnection] = field(default_factory=dict)
    _gone: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._by_route)

    def is_gone(self, route: bytes) -> bool:
        """Whether the connection was closed or replaced: what it still carries is not taken."""
        return route in self._gone

    def find(self, peer: bytes, lane: int) -> AcceptedConnection | None:
        """The connection for frames to a peer."""
        return self._current.get((peer, lane))

    def descriptors(self) -> set[int]:
        """Those of all known connections."""
        return {each.handle[0] for each in self._by_route.values() if each.handle is not None}

    def holds(self, handle: tuple[int, object]) -> bool:
        """Whether a connection with this descriptor and these ends carries a lane."""
        return any(each.handle == handle for each in self._by_route.values())

    def held_by(self, descriptor: int) -> AcceptedConnection | None:
        """The connection that has this descriptor: of several the oldest, for later ones have it anew."""
        found = (c for c in self._by_route.values() if c.handle is not None and c.handle[0] == descriptor)
        return next(found, None)

    def known(self, peer: bytes, lane: int, route: bytes) -> bool:
        """Whether a message belongs to a known connection. Raises `BadMessage` when it changed lanes."""
        found = self._by_route.get(route)
        if found is not None and (found.peer, found.lane) != (peer, lane):
            raise BadMessage("a connection changed its lane")
        return found is not None

    def add(self, connection: AcceptedConnection) -> AcceptedConnection | None:
        """A first message came over a new connection; returns the one that it replaces."""
        older = self._current.get((connection.peer, connection.lane))
        if older is not None:
            self.drop(older.route)
        self._current[connection.peer, connection.lane] = connection
        self._by_route[connection.route] = connection
        return older

    def drop(self, route: bytes) -> AcceptedConnection | None:
        """Take nothing more from a connection, known or not."""
        self._gone[route] = None
        if len(self._gone) > FORGOTTEN:
            self._gone.popitem(last=False)
        found = self._by_route.pop(route, None)
        if found is not None:
            self._current.pop((found.peer, found.lane), None)
        return found

    def of_peer(self, peer: bytes) -> list[AcceptedConnection]:
        """All connections of a peer."""
        return [c for c in self._by_route.values() if c.peer == peer]

    def waiting(self) -> list[AcceptedConnection]:
        """The connections with unsent messages."""
        return [c for c in self._by_route.values() if c.outbox.waiting]
