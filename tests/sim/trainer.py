"""A trainer without a model: small vectors whose every bit can be recomputed from the records alone.

The contribution of a peer is a pure function of (peer, life, base): element ``index`` of the peer is
one, so that a mean names its contributors and their weights, the rest is noise from a hash that tells
a clone from its original. The outer step is Nesterov in numpy. Where it is two exchanges, the first mean is
only kept in the state, and the second one moves it. Below it runs the production `OuterLoop`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from diloco.checkpoints.shelf import Shelf
from diloco.simulation.no_live_model import NoLiveModel
from diloco.simulation.vectors import VectorBlob, check_named
from peers.protocol.application import piece_sizes
from peers.protocol.events import Computed, RecomputeWanted
from peers.protocol.record import GENESIS
from transport.collectives.reducer import NumpyReducer, Part, Reducer
from transport.digests import digest_of, tree_digest
from transport.effects import EncodedResult, Payload
from transport.errors import Poisoned
from transport.limits import Limits

Vector = npt.NDArray[np.float32]
LR, MU = np.float32(0.7), np.float32(0.9)
SYNC_EVERY = 4
LAYOUT = b"vectors"
"""What stands for the text of a layout."""
NAMES = 40
"""Leading elements that name contributors."""


def contribution_of(index: int, life: int, base: bytes, fragment: int, size: int) -> Vector:
    """What this life of the peer with this index contributes on top of ``base``."""
    seed = hashlib.sha256(base + bytes([index, life, fragment])).digest()
    noise = np.random.default_rng(int.from_bytes(seed[:8], "big")).standard_normal(size)
    values = noise.astype(np.float32)
    values[:NAMES] = 0.0
    values[index] = 1.0
    return values


def outer_step(state: Vector, mean: Vector) -> Vector:
    """What a commit with this mean makes of a state: one Nesterov step on ``[parameters, momentum]`` with
    separately rounded operations. A state ``[parameters, momentum, sketch]`` takes the first of two means up
    as its sketch; the second moves it with half of that."""
    theta, momentum, *sketch = np.split(state, len(state) // len(mean))
    if sketch and not sketch[0].any():
        return np.concatenate([theta, momentum, mean])
    for each in sketch:
        mean = mean + each * np.float32(0.5)
    momentum = momentum * MU + mean
    theta = theta - LR * (mean + momentum * MU)
    return np.concatenate([theta, momentum, *(np.zeros_like(each) for each in sketch)])


def initial_state(index: int, fragment: int, size: int, exchanges: int = 1) -> Vector:
    """Every peer would begin elsewhere; only the seed's counts."""
    rng = np.random.default_rng([index, fragment])
    return np.concatenate([rng.standard_normal(size), np.zeros(exchanges * size)]).astype(np.float32)


def digests_of(state: Vector, piece_bytes: int) -> list[bytes]:
    data = state.tobytes()
    sizes = piece_sizes(len(data), piece_bytes)
    starts = np.cumsum([0, *sizes])
    return [digest_of(data[a:b]) for a, b in pairwise(starts)]


def name_of(state: Vector, piece_bytes: int) -> bytes:
    return tree_digest(digests_of(state, piece_bytes))


def computed(wanted: RecomputeWanted, exchanges: int, piece_bytes: int) -> Computed:
    """What a host computes that is to know which of several states is right."""
    assert wanted.layout == LAYOUT
    reducer = NumpyReducer(len(wanted.former) // 4 // (1 + exchanges))
    reducer.begin(wanted.chunk_elements, wanted.num_parts)
    for chunk, payload in enumerate(wanted.result):
        reducer.accept(chunk, payload)
    former = np.frombuffer(bytes(wanted.former), dtype=np.float32)
    name = name_of(outer_step(former, reducer.output), piece_bytes)
    return Computed(check_named(name_of(former, piece_bytes)), check_named(name), name)


class VectorJudge:
    """Tells whether a chunk is finite and how long it is, by what members decode with."""

    def fault(self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None) -> str | None:
        try:
            NumpyReducer(num_elements).accept(0, payload)
        except Poisoned as error:
            return error.reason
        return ""

    def square(
        self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
    ) -> float | None:
        try:
            return NumpyReducer(num_elements).accept(0, payload)
        except Poisoned:
            return math.inf

    def deviation(
        self, fragment: int, parts: Sequence[Part], mean: Payload, num_elements: int
    ) -> tuple[float, float, float] | None:
        return NumpyReducer(num_elements).deviation(0, parts, mean)


@dataclass
class VectorReplica(NoLiveModel):
    """`loop.replica.Replica` and `peers.protocol.application.Application` of one simulated worker."""

    index: int
    sizes: list[int]
    limits: Limits
    life: int = 1
    exchanges: int = 1
    """Commits that make one outer step: 1 or 2."""
    poison: bool = False
    """Sends values that are not finite, as a broken machine would."""
    explode: bool = False
    """Its training diverged: everything is a million times too large."""
    states: list[Vector] = field(default_factory=list)
    bases: list[bytes] = field(default_factory=list)
    former: dict[int, Vector] = field(default_factory=dict)
    """By fragment, before the last commit."""
    shelf: Shelf | None = None
    """Results on this worker's disk, if it has one."""
    corrupt: bool = False
    """The next outer step of this worker goes wrong by one bit, as a broken build's would."""

    written: dict[int, bytes] = field(default_factory=dict)
    """By fragment, the check of its state as it was written."""
    former_written: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = [initial_state(self.index, f, n, self.exchanges) for f, n in enumerate(self.sizes)]
        self.bases = [GENESIS] * len(self.sizes)

    # loop.replica.Replica

    def count(self, fragment: int) -> int:
        return 0  # nobody follows a schedule here

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        values = contribution_of(self.index, self.life, self.bases[fragment], fragment, self.sizes[fragment])
        if self.explode:
            values *= np.float32(1e6)
        norm = float(np.sqrt((values**2).sum()))
        if self.poison:
            values[-1] = np.nan
        return NumpyReducer(len(values), values), norm

    def sketches(self, fragment: int) -> bool:
        sketch = self.states[fragment][2 * self.sizes[fragment] :]
        return len(sketch) > 0 and not sketch.any()

    def sync_every(self, fragment: int) -> int:
        return SYNC_EVERY

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        assert isinstance(mean, NumpyReducer)
        self.former[fragment], self.former_written[fragment] = self.states[fragment], self.check(fragment)
        self.states[fragment] = outer_step(self.states[fragment], mean.output)
        if self.corrupt:
            self.corrupt = False
            self.wear(fragment)
        self.written[fragment] = check_named(self.digest(fragment))

    def wear(self, fragment: int) -> None:
        """A bit of what is held is another one from now on."""
        self.states[fragment] = self.states[fragment].copy()
        self.states[fragment].view(np.int32)[0] ^= 1 << 20  # a step must not round it away

    def load(self, fragment: int, data: bytearray) -> None:
        self.states[fragment] = np.frombuffer(bytes(data), dtype=np.float32).copy()
        self.former.pop(fragment, None)
        self.written[fragment] = check_named(self.digest(fragment))

    def digest(self, fragment: int) -> bytes:
        return name_of(self.states[fragment], self.limits.payload_bytes)

    def check(self, fragment: int) -> bytes:
        return self.written.get(fragment) or check_named(self.digest(fragment))

    # peers.application.Application

    def receiver(self, fragment: int) -> Reducer:
        return NumpyReducer(self.sizes[fragment])

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        former = self.former.get(fragment)
        if check == self.check(fragment):
            return partial(name_of, self.states[fragment], self.limits.payload_bytes)
        if former is not None and check == self.former_written[fragment]:
            return partial(name_of, former, self.limits.payload_bytes)
        return None

    def state_buffer(self, fragment: int) -> bytearray:
        return bytearray(4 * len(self.states[fragment]))

    def state_at_hand(self, fragment: int) -> None:
        return None

    def state_blob(self, fragment: int, blob: bytes) -> VectorBlob | None:
        for state in (self.states[fragment], self.former.get(fragment)):
            digests = [] if state is None else digests_of(state, self.limits.payload_bytes)
            if state is not None and tree_digest(digests) == blob:
                return VectorBlob(digests, state.tobytes(), self.limits.payload_bytes)
        return None

    def kept_result(self, result: bytes) -> EncodedResult | None:
        return self.shelf.find(result) if self.shelf is not None else None
