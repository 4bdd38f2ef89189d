"""Small vectors of real numbers as what a simulated worker trains, so that a wrong sum is seen as one.

A contribution is a pure function of its worker, the fragment and the state on top of which it was made; the
outer step takes the mean off. So whoever knows the records and the first state can recompute every bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diloco.simulation.no_live_model import NoLiveModel
from peers.protocol.application import piece_sizes
from peers.protocol.events import Computed, RecomputeWanted
from transport.collectives.fetch import AtHand, BlobBuffer
from transport.collectives.reducer import NumpyReducer, Reducer
from transport.digests import digest_of, tree_digest
from transport.effects import Payload
from transport.limits import Limits

Vector = npt.NDArray[np.float32]


def vector_limits(num_parameters: int, num_peers: int) -> Limits:
    """Bounds under which a short vector has several chunks for each of its owners."""
    chunk = max(8, num_parameters // (4 * num_peers))
    return Limits(
        chunk_elements=chunk,
        payload_bytes=16 * 1024,
        window_bytes=1 << 20,
        buffer_bytes=16 << 20,
        spare_bytes=16 << 20,
    )


def contribution_of(name: str, fragment: int, state: Vector) -> Vector:
    """What a worker offers on top of that state."""
    seed = hashlib.sha256(f"{name} {fragment} ".encode() + state.tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "little"))
    return rng.standard_normal(len(state)).astype(np.float32)


def step_of(state: Vector, mean: Vector) -> Vector:
    """The state after a commit with that mean."""
    return (state - np.float32(0.5) * mean).astype(np.float32)


def computed(piece_bytes: int, wanted: RecomputeWanted) -> Computed:
    """What a host computes that is to know which of several states is right."""
    state = np.frombuffer(bytes(wanted.former), dtype=np.float32)
    reducer = NumpyReducer(len(state))
    reducer.begin(wanted.chunk_elements, wanted.num_parts)
    for chunk, payload in enumerate(wanted.result):
        reducer.accept(chunk, payload)
    name = _name_of(step_of(state, reducer.output), piece_bytes)
    return Computed(check_named(_name_of(state, piece_bytes)), check_named(name), name)


def check_named(name: bytes) -> bytes:
    """The check of the state of that digest, here where states are short."""
    return name[:16]


def _name_of(state: Vector, piece_bytes: int) -> bytes:
    return tree_digest(_digests_of(state, piece_bytes))


def _digests_of(state: Vector, piece_bytes: int) -> list[bytes]:
    data, found, start = state.tobytes(), [], 0
    for size in piece_sizes(len(data), piece_bytes):
        found.append(digest_of(data[start : start + size]))
        start += size
    return found


@dataclass(frozen=True, slots=True)
class VectorBlob:
    """A state to hand out (`peers.protocol.application.StateBlob`)."""

    digests: list[bytes]
    data: bytes
    piece_bytes: int

    def piece(self, index: int) -> Payload:
        return self.data[index * self.piece_bytes : (index + 1) * self.piece_bytes]


class VectorReplica(NoLiveModel):
    """`loop.replica.Replica` and `Application` of one worker whose model is ``sizes`` vectors."""

    def __init__(self, name: str, sizes: tuple[int, ...], sync_every: int, piece_bytes: int) -> None:
        self.sizes = sizes
        self.states = [np.zeros(size, dtype=np.float32) for size in sizes]
        self._name = name
        self._sync_every = sync_every
        self._piece_bytes = piece_bytes
        self._commits = [0] * len(sizes)
        self._former: dict[int, Vector] = {}
        """By fragment, before the last commit."""

    # loop.replica.Replica

    def sync_every(self, fragment: int) -> int:
        return self._sync_every

    def count(self, fragment: int) -> int:
        return self._commits[fragment]

    def sketches(self, fragment: int) -> bool:
        return False

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        values = contribution_of(self._name, fragment, self.states[fragment])
        return NumpyReducer(len(values), values), float(np.linalg.norm(values.astype(np.float64)))

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        assert isinstance(mean, NumpyReducer)
        self._commits[fragment] += 1
        self._former[fragment] = self.states[fragment]
        self.states[fragment] = step_of(self.states[fragment], mean.output)

    def load(self, fragment: int, data: bytearray | BlobBuffer) -> None:
        assert isinstance(data, bytearray), "a phantom where bytes are due"
        self.states[fragment] = np.frombuffer(bytes(data), dtype=np.float32).copy()
        self._former.pop(fragment, None)

    def digest(self, fragment: int) -> bytes:
        return _name_of(self.states[fragment], self._piece_bytes)

    def check(self, fragment: int) -> bytes:
        return check_named(self.digest(fragment))

    # peers.application.Application

    def receiver(self, fragment: int) -> Reducer:
        return NumpyReducer(self.sizes[fragment])

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        held = [self.states[fragment], *([self._former[fragment]] if fragment in self._former else [])]
        names = [name for each in held if check_named(name := _name_of(each, self._piece_bytes)) == check]
        return (lambda: names[0]) if names else None

    def state_buffer(self, fragment: int) -> bytearray:
        return bytearray(4 * self.sizes[fragment])

    def state_blob(self, fragment: int, blob: bytes) -> VectorBlob | None:
        for state in (self.states[fragment], self._former.get(fragment)):
            digests = [] if state is None else _digests_of(state, self._piece_bytes)
            if state is not None and blob == tree_digest(digests):
                return VectorBlob(digests, state.tobytes(), self._piece_bytes)
        return None

    def state_at_hand(self, fragment: int) -> AtHand:
        state = self.states[fragment]
        digests = _digests_of(state, self._piece_bytes)
        return AtHand(VectorBlob(digests, state.tobytes(), self._piece_bytes).piece, digests)
