"""A worker's numbers without numbers: sizes and digests, so that a 100B-parameter run fits a laptop.

Below the production loop, member and exchange it stands where `replica.TensorReplica` does. A state is a
digest of what went into it, so that who differs is seen; a contribution is named by worker, fragment and
count. Sizes come from `cost`. What encoding and adding take is not in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from diloco.methods.cost import (
    basis_values,
    element_bytes,
    elements_sent,
    mean_bytes,
    state_vectors,
    wire_element_bytes,
)
from diloco.methods.schedule import Schedule
from diloco.methods.spec import Method
from diloco.simulation.no_live_model import NoLiveModel
from peers.protocol.application import piece_sizes
from transport.collectives.fetch import AtHand, BlobBuffer
from transport.collectives.plan import max_chunk_elements
from transport.collectives.reducer import PhantomReducer, Reducer
from transport.digests import digest_of, tree_digest
from transport.effects import Payload, Phantom, PhantomBlob
from transport.limits import LIMITS, MIB, Limits


class PhantomVector(PhantomReducer):
    """One contribution of a method, and the mean of several."""

    def __init__(self, method: Method, num_elements: int, label: bytes) -> None:
        super().__init__(num_elements, element_bytes(method.codec, method), label)
        self._method = method
        self._accepted: dict[int, bytes] = {}

    def begin(self, chunk_elements: int, num_parts: int) -> None:
        super().begin(chunk_elements, num_parts)
        self._accepted = {}  # an earlier attempt may have been cut into more chunks
        self._mean_bytes = mean_bytes(self._method, num_parts)

    def accept(self, chunk: int, payload: Payload) -> float:
        assert isinstance(payload, Phantom), "bytes where a phantom is due"
        self._accepted[chunk] = payload.digest
        return 0.0

    def mean_digest(self) -> bytes:
        """Names the mean that came."""
        return tree_digest([self._accepted[chunk] for chunk in sorted(self._accepted)])


@dataclass(frozen=True, slots=True)
class PhantomState:
    """A state to hand out (`peers.protocol.application.StateBlob`)."""

    name: bytes
    sizes: tuple[int, ...]

    @property
    def digests(self) -> list[bytes]:
        return list(_digests_of(self.name, len(self.sizes)))

    def piece(self, index: int) -> Payload:
        return Phantom(self.sizes[index], _piece(self.name, index))


class PhantomReplica(NoLiveModel):
    """`loop.replica.Replica` and `Application` of one worker of a model with so many parameters."""

    def __init__(
        self, method: Method, num_parameters: int, layers: int | None, name: str, piece_bytes: int
    ) -> None:
        self._method = method
        self._name = name
        self._schedule = Schedule.of(method)
        self._sizes = fragment_sizes(method, num_parameters, layers)
        self._piece_bytes = piece_bytes
        self._commits = [0] * len(self._sizes)
        self._states = [_hash(b"first", bytes([f % 256])) for f in range(len(self._sizes))]

    @property
    def elements(self) -> tuple[int, ...]:
        """Values that each fragment's contribution has."""
        return tuple(sent_elements(self._method, size) for size in self._sizes)

    # loop.replica.Replica

    def sync_every(self, fragment: int) -> int:
        return self._schedule.periods[fragment]

    def count(self, fragment: int) -> int:
        return self._commits[fragment] // self._schedule.exchanges_per_step

    def sketches(self, fragment: int) -> bool:
        return (self._commits[fragment] + 1) % self._schedule.exchanges_per_step > 0

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        label = _hash(self._name.encode(), bytes([fragment % 256]), self._states[fragment])
        return PhantomVector(self._method, self.elements[fragment], label), 1.0

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        moved_by = ours if mean is None else mean
        assert isinstance(moved_by, PhantomVector)
        self._commits[fragment] += 1
        count = self._commits[fragment].to_bytes(8, "little")
        self._states[fragment] = _hash(count, self._states[fragment], moved_by.mean_digest())

    def load(self, fragment: int, data: bytearray | BlobBuffer) -> None:
        assert isinstance(data, PhantomBlob), "a state of bytes"
        # A piece's digest begins with the state's name and count: see `_piece`.
        self._states[fragment] = data.pieces[0][:32]
        self._commits[fragment] = int.from_bytes(data.pieces[0][32:40], "little")

    def digest(self, fragment: int) -> bytes:
        return tree_digest(_digests_of(self._full_name(fragment), len(self._piece_sizes(fragment))))

    def check(self, fragment: int) -> bytes:
        return _hash(self._full_name(fragment))[:16]

    # peers.application.Application

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        return partial(self.digest, fragment) if check == self.check(fragment) else None

    def receiver(self, fragment: int) -> Reducer:
        return PhantomVector(self._method, self.elements[fragment], b"")

    def state_buffer(self, fragment: int) -> PhantomBlob:
        return PhantomBlob(state_bytes(self._method, self._sizes[fragment]))

    def state_blob(self, fragment: int, blob: bytes) -> PhantomState | None:
        if blob != self.digest(fragment):
            return None
        return PhantomState(self._full_name(fragment), self._piece_sizes(fragment))

    def state_at_hand(self, fragment: int) -> AtHand:
        state = PhantomState(self._full_name(fragment), self._piece_sizes(fragment))
        return AtHand(state.piece, state.digests)

    def _full_name(self, fragment: int) -> bytes:
        return self._states[fragment] + self._commits[fragment].to_bytes(8, "little")

    def _piece_sizes(self, fragment: int) -> tuple[int, ...]:
        return tuple(piece_sizes(state_bytes(self._method, self._sizes[fragment]), self._piece_bytes))


def fragment_sizes(method: Method, num_parameters: int, layers: int | None) -> tuple[int, ...]:
    """Parameters in each fragment: as even as can be, or whole ``layers`` where the method's fragments are
    made of them. Moments, if they are averaged too, are as long as all parameters."""
    by_layer = layers is not None and method.fragment_pattern in ("sequential", "strided")
    unit = num_parameters // layers if by_layer and layers else 1
    whole, rest = divmod(num_parameters // unit, method.num_fragments)
    sizes = [(whole + (f < rest)) * unit for f in range(method.num_fragments)]
    sizes[-1] += num_parameters - sum(sizes)
    return (*sizes, *[num_parameters] * (Schedule.of(method).num_fragments - len(sizes)))


def sent_elements(method: Method, num_parameters: int) -> int:
    """Values of one contribution; gossip sends parameters beside them."""
    sent = max(1, round(elements_sent(method, num_parameters)))
    return 2 * sent if method.gossips else sent


def state_bytes(method: Method, num_parameters: int) -> int:
    """What a joiner fetches of a fragment in fp32: outer parameters, the outer optimizer's vectors, bases."""
    return 4 * (num_parameters * state_vectors(method) + round(basis_values(method, num_parameters)))


def _piece(name: bytes, index: int) -> bytes:
    return name + index.to_bytes(8, "little")


@lru_cache(4096)
def _digests_of(name: bytes, num_pieces: int) -> tuple[bytes, ...]:
    """Every worker at one state has the same."""
    return tuple(digest_of(Phantom(0, _piece(name, index))) for index in range(num_pieces))


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


_CHUNKS = 64
"""Of an exchange, at least: few enough to be cheap, enough that stages overlap as they do for real."""

_MAX_CHUNKS = 4096
"""Times peers: of very large swarms exchanges are cut more coarsely."""

_PIECES = 64
"""Of a fetched state."""


def phantom_limits(method: Method, num_parameters: int, layers: int | None, num_peers: int) -> Limits:
    """Bounds for payloads without bytes: an exchange is cut as coarsely as its timing allows, and nothing
    else of the production limits binds, but for windows: they hold several payloads."""
    members = num_peers
    if method.gossips:
        members = 2 if method.group == "pair" else method.group_size
    fragments = fragment_sizes(method, num_parameters, layers)
    longest = max(sent_elements(method, size) for size in fragments)
    chunks = max(8, min(_CHUNKS, _MAX_CHUNKS // num_peers))
    per_owner = max(1, min(LIMITS.chunks_per_owner, chunks // members))
    wire_bytes = wire_element_bytes(method)
    chunk = max(max_chunk_elements(LIMITS, wire_bytes), math.ceil(longest / (per_owner * members)))
    each = max(element_bytes(method.codec, method), mean_bytes(method, members))
    largest_state = max(state_bytes(method, size) for size in fragments)
    payload = max(MIB, math.ceil(2 * chunk * each), math.ceil(largest_state / _PIECES))
    return Limits(
        payload_bytes=payload,
        window_bytes=max(LIMITS.window_bytes, 16 * payload),
        buffer_bytes=max(LIMITS.buffer_bytes, 16 * payload * (num_peers + 1)),
        chunk_bytes=math.ceil(2 * chunk * wire_bytes),
        chunk_elements=chunk,
        chunks_per_owner=per_owner,
        members=max(LIMITS.members, num_peers),
        gossip_members=max(LIMITS.gossip_members, num_peers),
    )
