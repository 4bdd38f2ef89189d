"""A node and a training program that note what a member asks of them, for the tests beside this file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.messages import MemberIs
from peers.protocol.record import Record
from transport.collectives.chunks import MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.fetch import AtHand
from transport.collectives.plan import Plan
from transport.collectives.reducer import NumpyReducer
from transport.digests import digest_of, tree_digest
from transport.effects import EncodedResult, Payload
from transport.limits import Limits

ME, OTHER, THIRD, HOST = b"m" * 32, b"o" * 32, b"t" * 32, b"h" * 32
BASE = b"b" * 32
SIZE = 8
LIMITS = Limits(payload_bytes=64, pieces_in_flight=2, history_records=4, chunk_elements=SIZE // 2)
TIMEOUT_S, PATIENCE_S = 10.0, 60.0


class FakeOutlet:
    """A node whose links always stand; each has ``room_bytes`` of credit."""

    def __init__(self) -> None:
        self.said: list[tuple[bytes, Any]] = []
        self.bulk: list[tuple[bytes, Any, Payload]] = []
        self.events: list[Any] = []
        self.shown: list[tuple[Any, Payload]] = []
        """What the coordinator was shown."""
        self.returned: list[tuple[bytes, int]] = []
        """Credit, by whom it is for."""
        self.met: list[bytes] = []
        self.room_bytes = 1 << 30
        self.heard: dict[bytes, float] = {}
        self.strangers: set[bytes] = set()
        """Peers to whom there is no link before they are met."""

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self.said.append((peer, message))

    def send_bulk(self, now: float, peer: bytes, message: Any, payload: Payload, purpose: str) -> None:
        self.bulk.append((peer, message, payload))

    def show(self, now: float, message: Any, payload: Payload) -> bool:
        if self.room_bytes:
            self.shown.append((message, payload))
        return self.room_bytes > 0

    def room(self, peer: bytes) -> int:
        return self.room_bytes

    def consumed(self, now: float, peer: bytes, cost: int) -> None:
        self.returned.append((peer, cost))

    def send_stream(self, now: float, peer: bytes, message: Any, payload: Payload) -> None:
        self.bulk.append((peer, message, payload))

    def stream_room(self, peer: bytes) -> int:
        return self.room_bytes

    def stream_consumed(self, now: float, peer: bytes, cost: int) -> None:
        self.returned.append((peer, cost))

    def keep(self, serial: int, result: bytes, encoded: EncodedResult) -> None:
        self.said.append((b"disk", (serial, result, encoded)))

    def deliver(self, event: object) -> None:
        self.events.append(event)

    def last_heard(self, now: float, peer: bytes) -> float:
        return self.heard.get(peer, now)

    def meet(self, now: float, peer: bytes) -> bool:
        self.met.append(peer)
        is_new = peer in self.strangers
        self.strangers.discard(peer)
        return is_new

    def told(self, peer: bytes, kind: type) -> list[Any]:
        """Messages of a kind to a peer, in order."""
        return [message for to, message in self.said if to == peer and isinstance(message, kind)]

    def seen(self, kind: type) -> list[Any]:
        """Events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


class FakeBlob:
    """A fragment's state in pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.digests = [digest_of(piece) for piece in pieces]

    def piece(self, index: int) -> Payload:
        return self.pieces[index]


class FakeApp:
    """Holds the states that it is given, by fragment, and the results on its ``disk``."""

    def __init__(self, *states: bytes) -> None:
        self.states = list(states)
        self.disk: dict[bytes, EncodedResult] = {}
        self.asked: list[bytes] = []
        """Results that its disk was asked for."""

    def receiver(self, fragment: int) -> NumpyReducer:
        return NumpyReducer(SIZE)

    def state_buffer(self, fragment: int) -> bytearray:
        return bytearray(len(state_of(fragment)))

    def state_at_hand(self, fragment: int) -> AtHand | None:
        if fragment >= len(self.states):
            return None
        held = FakeBlob(pieces_of(self.states[fragment]))
        return AtHand(held.piece, held.digests)

    def state_blob(self, fragment: int, blob: bytes) -> FakeBlob | None:
        held = dict(enumerate(self.states)).get(fragment)
        return FakeBlob(pieces_of(held)) if held is not None and blob == name_of(held) else None

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        name = name_of(self.states[fragment])
        return (lambda: name) if check == check_of(name) else None

    def kept_result(self, result: bytes) -> EncodedResult | None:
        self.asked.append(result)
        return self.disk.get(result)


def state_of(fragment: int) -> bytes:
    """A state of two pieces and a half."""
    return bytes([fragment + 1]) * (5 * LIMITS.payload_bytes // 2)


def pieces_of(state: bytes) -> list[bytes]:
    step = LIMITS.payload_bytes
    return [state[i : i + step] for i in range(0, len(state), step)]


def name_of(state: bytes) -> bytes:
    """The digest by which a state is fetched."""
    return tree_digest([digest_of(piece) for piece in pieces_of(state)])


def check_of(name: bytes) -> bytes:
    """The check of the imagined state of that digest."""
    return name[:16]


def vector(value: float) -> NumpyReducer:
    return NumpyReducer(SIZE, np.full(SIZE, value, np.float32))


def entry(key: bytes, *addresses: str) -> MemberIs:
    return MemberIs(1, key, f"name of {key[:1].decode()}", addresses, 0)


def record_on(parent: bytes, index: int = 1, members: tuple[bytes, ...] = (OTHER,), **changes: Any) -> Record:
    """A record of fragment 0 that follows ``parent``; its result is `result_of(index)`."""
    fields = {
        "parent": parent,
        "index": index,
        "fragment": 0,
        "epoch": 0,
        "serial": index,
        "chunk_elements": SIZE,
        "members": members,
        "weights": (1.0,) * len(members),
        "result": tree_digest([digest_of(result_of(index))]),
    }
    if changes.get("fragment") == ALL_FRAGMENTS:
        fields |= {"members": (), "weights": ()}
    return Record(**{**fields, **changes})


def result_of(index: int) -> bytes:
    """An encoded result of one chunk."""
    return np.full(SIZE, index, np.float32).tobytes()


class Partner:
    """The other end of an exchange: a member of the same group with a vector of its own."""

    def __init__(self, me: bytes, serial: int, plan: Plan, chunk_elements: int, value: float = 3.0) -> None:
        self.me = me
        self.exchange = DirectReduce(serial, me, vector(value), chunk_elements, 0.0)
        self.exchange.begin(0.0, plan)

    def chunks(self) -> list[tuple[bytes, PartChunk | MeanChunk, Payload]]:
        """What it sends now, with whom it is for."""
        sent: list[tuple[bytes, Any, Payload]] = []
        while self.exchange.pump(lambda peer: 1 << 30, lambda *each: sent.append(each)):
            pass
        return sent

    def take(self, peer: bytes, message: PartChunk | MeanChunk, payload: Payload) -> None:
        if isinstance(message, PartChunk):
            self.exchange.part(0.0, peer, message, payload)
        else:
            self.exchange.mean(0.0, peer, message, payload)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
