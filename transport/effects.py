"""The seam between decisions and IO: what a core hands back, and what a driver must offer.

A core is an object that is *given* time and messages and *hands back* effects. It owns no socket,
clock, thread or file. Two drivers run the same cores: `transport.sockets.driver` and
`transport.simnet.network`. A driver feeds one input, drains the effects, carries them out **in order** (a
`Store` is durable before a later `Send` leaves), and re-arms one timer from `deadline()`.

A peer is named by its 32-byte CURVE public key, as authenticated by the link below; a name inside
a frame is never trusted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Protocol

NEVER = -math.inf
"""The time of what has not happened yet."""

CONTROL_LANE = 0
"""The lane of control messages; bulk travels on lanes 1 and up, so control never waits behind it."""
STREAM_LANE = 254
"""The lane of bulk that must not wait behind other bulk, between peers that stream to each other."""


@dataclass(frozen=True, slots=True)
class Phantom:
    """A payload that has a size and a digest and no bytes, so that huge runs are timed on a laptop."""

    size_bytes: int
    digest: bytes = b""

    def __len__(self) -> int:
        return self.size_bytes


Payload = bytes | bytearray | memoryview | Phantom
"""What travels beside a header. Whoever hands a buffer over must not change it afterwards."""


@dataclass(slots=True)  # made for every frame, and a frozen one takes twice as long to make
class Send:
    """Put one frame on the wire. A frame to a lane that is down is dropped: links retransmit."""

    peer: bytes
    lane: int
    header: bytes
    payload: Payload | None = None
    purpose: str = "control"
    """For the byte counters: control, exchange, state, stream."""
    again: bool = False
    """True for a retransmission, which is counted apart."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Dial a peer on every lane, and keep dialling until `Close`; addresses are tried in order."""

    peer: bytes
    addresses: tuple[str, ...]
    lanes: int
    eager_from: float | None = None
    """Half a minute from then on, and whenever a connection breaks, it is dialled at least twice a second."""
    with_stream: bool = False
    """There is the lane of streams too."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of all lanes that are dialled."""
        return (*range(self.lanes + 1), *[STREAM_LANE] * self.with_stream)


@dataclass(frozen=True, slots=True)
class Probe:
    """Look whether anybody listens where a peer lives; `Core.refused` says if nobody does."""

    peer: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Close:
    """Forget the connections of a peer, dialled or accepted."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Store:
    """Append one entry to the journal; durable before any later effect is carried out."""

    entry: bytes


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """An encoded result by chunk."""

    digests: list[bytes]
    chunks: list[Payload]

    @property
    def size_bytes(self) -> int:
        """Of all chunks."""
        return sum(map(size_bytes, self.chunks))


@dataclass(frozen=True, slots=True)
class KeepResult:
    """Keep the result of a round on this machine's disk, whole, before any later effect is carried out; it
    need not outlive the machine. If that fails, the program is told by a trace, and all goes on."""

    serial: int
    result: bytes
    """Its name: the tree digest of ``digests``."""
    digests: list[bytes]
    chunks: list[Payload]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand an event to the application above the core."""

    event: object


class Trace:
    """Something worth counting or showing. Each fact is a frozen dataclass of its own, whose class is named
    for it: `CommittedTrace` has the name "committed"."""

    __slots__ = ()
    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Trace")).lower()


Effect = Send | Connect | Probe | Close | Store | KeepResult | Deliver | Trace


@dataclass(frozen=True, slots=True)
class KeepFailedTrace(Trace):
    """A result could not be kept on the disk. The round goes on without that."""

    serial: int
    error: str


class Core(Protocol):
    """What both drivers run. ``now`` is in seconds and never decreases."""

    def start(self, now: float) -> None:
        """First input: dial whom it must."""

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that we dialled is up (again); what was in flight on it before may be lost."""

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that we dialled broke; the driver goes on dialling."""

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that the peer dialled ended by itself: all that came over it was received before. The
        peer may dial again, or be dead."""

    def refused(self, now: float, peer: bytes) -> None:
        """The machine of a peer refuses connections where it listened: a dial of ours, or a `Probe`."""

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        """One frame from the authenticated ``peer``; rubbish closes that peer and changes nothing."""

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        """One request on a connection opened with a live invite's key: the reply's header and payload."""

    def admits(self, key: bytes) -> str | None:
        """ "member", "invite" or "owner" for a key whose connection may stand, else None. Changes nothing."""

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        """An input of this peer failed in the midst: `Close` it, and begin anew with it when it is back."""

    def tick(self, now: float) -> None:
        """Time has passed: the deadline came."""

    def deadline(self) -> float | None:
        """When `tick` is wanted next, in seconds; None for never."""

    def drain(self) -> list[Effect]:
        """The effects since the last drain, to be carried out in this order."""

    def digest(self) -> str:
        """A hash of the state: equal inputs give equal digests."""


def size_bytes(payload: Payload | None) -> int:
    """Bytes of a payload, whatever the items of its buffer are."""
    if payload is None:
        return 0
    return payload.nbytes if isinstance(payload, memoryview) else len(payload)


class PhantomBlob:
    """A blob of a size without bytes, put together from phantom pieces."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self.pieces: dict[int, bytes] = {}
        """Digests of the pieces that have come."""

    def __len__(self) -> int:
        return self._size_bytes

    def put(self, index: int, payload: Payload, digest: bytes) -> None:
        """Take one piece."""
        assert isinstance(payload, Phantom), "bytes where a phantom is due"
        self.pieces[index] = payload.digest
