"""One end of `bench_stream`: a core with one link, which sends tensors in a stream and sends back what came.

The dialler begins: it sends a tensor, the other end sends it back as soon as it is whole, and so on. With an
exchange beside, both keep as much other bulk on the way as credit allows, in chunks of 1 MiB.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transport.collectives.stream import Assembly, num_pieces, piece_of
from transport.effects import Effect, Payload
from transport.errors import BadFrame
from transport.frames import Count, Small, kind, unpack_items
from transport.keys import KeyPair
from transport.limits import LIMITS
from transport.link.link import Link
from transport.link.messages import Arrival, Session
from transport.sockets.driver import SocketDriver
from transport.sockets.sealed_lanes import Bulk
from transport.sockets.traces import BulkLaneUpTrace

PIECE_BYTES = LIMITS.payload_bytes
CHUNK = bytes(1 << 20)


@kind(1400)
@dataclass(frozen=True, slots=True)
class Next:
    """The next tensors have this size; with an exchange beside, or without."""

    size: Count
    exchange: bool


@kind(1401)
@dataclass(frozen=True, slots=True)
class PieceOf:
    """One piece of the tensor that is under way."""

    index: Small


@kind(1402)
@dataclass(frozen=True, slots=True)
class Chunk:
    """Bulk that has time."""

    number: Count


class StreamEnd:
    """A core. ``times`` are the seconds there and back of each tensor, at the end that dials."""

    def __init__(self, other: bytes, incarnation: int, address: str | None, payload: bytes) -> None:
        self.times: list[float] = []
        self.chunk_bytes = 0
        """Of chunks that came."""
        self.finished = threading.Event()
        self.is_up = threading.Event()
        self._out: list[Effect] = []
        self._payload, self._is_first = payload, address is not None
        self._size, self._exchange, self._left, self._began = 0, False, 0, 0.0
        self._sending: Any = b""
        self._next_piece = 1
        self._incoming = Assembly(0, PIECE_BYTES)
        self._link = Link(
            other,
            Session(incarnation, 1),
            dials=address is not None,
            addresses=(address,) if address else (),
            heartbeat_s=1.0,
            silence_s=20.0,
            limits=LIMITS,
            out=self._out,
            with_stream=True,
        )

    def measure(self, now: float, size: int, repeats: int, *, exchange: bool) -> None:
        """Send so many tensors of this size, one after the other has come back."""
        self.times, self._left = [], repeats
        self.finished.clear()
        self._begin(size, exchange=exchange)
        self._link.send_control(now, Next(size, exchange))  # what comes in a stream may be before it

    def rest(self, now: float) -> None:
        """No exchange any more."""
        self._begin(0, exchange=False)
        self._link.send_control(now, Next(0, False))

    # -- what a driver calls ------------------------------------------------------------------

    def start(self, now: float) -> None:
        self._link.start(now)

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        self._link.connected(now, lane)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        self._link.disconnected(now, lane)

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        self._link.ended(now, lane)

    def refused(self, now: float, peer: bytes) -> None:
        return None

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        for each in self._link.receive(now, lane, unpack_items(header), payload):
            if not isinstance(each, Arrival):
                continue
            if isinstance(each.message, Next):
                self._hear_next(now, each.message)
            elif isinstance(each.message, PieceOf):
                assert each.payload is not None
                self._link.streams.stream_consumed(now, each.cost)
                if (whole := self._incoming.put(each.message.index, each.payload)) is not None:
                    self._came(whole)
            elif each.payload is not None:
                self.chunk_bytes += len(each.payload)
                self._link.streams.consumed(now, each.cost)
        self._pump(now)
        if self._link.streams.stream_room() > 0 and self._link.streams.room() > 0:
            self.is_up.set()

    def knock(self, now: float, invite: bytes, header: bytes) -> None:
        return None

    def admits(self, key: bytes) -> str | None:
        return "member"

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        raise BadFrame(reason)

    def tick(self, now: float) -> None:
        self._link.tick(now)
        self._pump(now)

    def deadline(self) -> float | None:
        return self._link.deadline()

    def drain(self) -> list[Effect]:
        out = self._out[:]
        self._out.clear()
        return out

    def digest(self) -> str:
        return ""

    # -- inside -------------------------------------------------------------------------------

    def _begin(self, size: int, *, exchange: bool) -> None:
        self._size, self._exchange = size, exchange
        self._incoming = Assembly(size, PIECE_BYTES)

    def _hear_next(self, now: float, message: Next) -> None:
        if not self._is_first:
            self._begin(message.size, exchange=message.exchange)
            self._link.send_control(now, message)
        elif message.size:
            self._send_tensor(self._payload[: self._size])

    def _send_tensor(self, payload: Any) -> None:
        self._began = time.perf_counter()
        self._sending, self._next_piece = payload, 0

    def _came(self, payload: Payload) -> None:
        self._incoming = Assembly(self._size, PIECE_BYTES)
        if not self._is_first:
            self._send_tensor(payload)
            return
        self.times.append(time.perf_counter() - self._began)
        self._left -= 1
        if self._left:
            self._send_tensor(self._payload[: self._size])
        else:
            self._size = 0
            self.finished.set()

    def _pump(self, now: float) -> None:
        streams, num = self._link.streams, num_pieces(len(self._sending), PIECE_BYTES)
        while self._next_piece < num:
            piece = piece_of(self._sending, PIECE_BYTES, self._next_piece)
            if streams.stream_room() < len(piece):
                break
            streams.send_stream(now, PieceOf(self._next_piece), piece)
            self._next_piece += 1
        while self._exchange and streams.room() >= len(CHUNK):
            streams.send_bulk(now, Chunk(0), CHUNK, "exchange")


class Running:
    """An end in a driver."""

    def __init__(
        self, keys: KeyPair, other: bytes, bind: str | None, address: str | None, most: int, *, sealed: bool
    ) -> None:
        self.end = StreamEnd(other, 1, address, bytes(most))
        self.lanes: set[int] = set()
        bulk = Bulk(b"bench") if sealed else None
        self.driver = SocketDriver(
            self.end, keys, bind, lambda event: None, self._trace, lambda entry: None, bulk=bulk
        )
        self.driver.start()

    def do(self, what: Callable[[StreamEnd, float], None]) -> None:
        """Have something done on the driver's thread."""
        self.driver.call(lambda core, now: what(self.end, now)).result(20)

    def _trace(self, trace: object) -> None:
        if isinstance(trace, BulkLaneUpTrace):
            self.lanes.add(trace.lane)
