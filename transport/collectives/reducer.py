"""What an exchange needs to know about numbers: an object that encodes, reduces and decodes chunks.

The exchange moves bytes only. The arithmetic is handed to it as a `Reducer`: `diloco` makes one
from a codec and tensors; `PhantomReducer` has sizes and no bytes; `NumpyReducer` is fp32 in numpy,
for whoever exchanges vectors without torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from transport.effects import Payload, Phantom
from transport.errors import Poisoned


@dataclass(frozen=True, slots=True)
class Part:
    """One member's contribution to a chunk as its owner sees it."""

    member: int
    """Index in the round's member list: parts come sorted by it, so sums run in one order."""
    weight: float
    """Share of this member: its weight over the sum of all weights in the round."""
    payload: Payload | None
    """The encoded contribution; None for the owner's own, which it takes unencoded."""
    plain: bool = False
    """It is not encoded: what `Reducer.own` gave."""


class Reducer(Protocol):
    """The arithmetic of one vector in one round. Chunk ``i`` covers elements
    ``[i * chunk_elements, min((i + 1) * chunk_elements, num_elements))``. One thread at a time calls it."""

    part_squares: list[float]
    """Squared norms of the parts of the last `reduce`, in their order, as they were decoded; 0 for the
    owner's own, which nobody sent."""

    @property
    def num_elements(self) -> int:
        """Length of the vector."""

    def begin(self, chunk_elements: int, num_parts: int) -> None:
        """Fix the chunks, and of how many parts a mean is made; called before anything else, once per
        attempt. What was encoded before stays as it is if the chunks do."""

    def size_bytes(self, chunk: int) -> int:
        """Exact encoded size of a contribution."""

    def mean_size_bytes(self, chunk: int) -> int:
        """Exact encoded size of a mean of ``num_parts`` parts."""

    def encode(self, chunk: int) -> Payload:
        """This member's contribution; the same bytes each time."""

    def reduce(self, chunk: int, parts: Sequence[Part]) -> Payload:
        """Weighted mean of the parts in fp32 in the given order, encoded once. Raises `Poisoned`."""

    def accept(self, chunk: int, payload: Payload) -> float:
        """Decode a result into the output. Returns its squared norm. Raises `Poisoned` with member -1."""

    def kept(self, chunk: int, payload: Payload) -> Payload:
        """The bytes of a result that was accepted, for whoever may ask for them: those in the output, if it
        has them as they travelled, so that they are not kept twice."""

    def length(self, chunk: int) -> int:
        """Its elements."""

    def own(self, chunk: int, encoded: bool, section: slice) -> Payload:
        """What this member's own part is in a ``section`` of the elements of a mean that it makes, in fp32:
        as it is, or as it is once it was ``encoded`` where that is what was added."""

    def deviation(
        self, chunk: int, parts: Sequence[Part], mean: Payload, section: slice | None = None
    ) -> tuple[float, float, float]:
        """How far a mean is from the one that these parts make; how far encoding took that one from their
        sum; and how long the mean is: norms, of a ``section`` of its elements or of all. A plain part has
        that section only. Measures the parts as `reduce` does. Needs no contribution and leaves the output as
        it is. Raises `Poisoned`."""


class _Chunked:
    """Where chunks begin and end."""

    def __init__(self, num_elements: int) -> None:
        self._num_elements = num_elements
        self._chunk_elements = max(1, num_elements)

    @property
    def num_elements(self) -> int:
        return self._num_elements

    def begin(self, chunk_elements: int, num_parts: int) -> None:
        self._chunk_elements = chunk_elements

    def length(self, chunk: int) -> int:
        start = chunk * self._chunk_elements
        return min(self._chunk_elements, self._num_elements - start)

    def _span(self, chunk: int) -> slice:
        start = chunk * self._chunk_elements
        return slice(start, min(start + self._chunk_elements, self._num_elements))


class NumpyReducer(_Chunked):
    """fp32 vectors in numpy. ``values`` is the contribution, or None for one who only receives;
    ``output`` holds the mean once every chunk was accepted."""

    def __init__(self, num_elements: int, values: npt.NDArray[np.float32] | None = None) -> None:
        super().__init__(num_elements)
        self._values = values
        self.part_squares: list[float] = []
        self.output = np.zeros(num_elements, dtype=np.float32)

    def size_bytes(self, chunk: int) -> int:
        return 4 * self.length(chunk)

    def mean_size_bytes(self, chunk: int) -> int:
        return self.size_bytes(chunk)

    def encode(self, chunk: int) -> Payload:
        assert self._values is not None, "a receiver has no contribution to encode"
        return self._values[self._span(chunk)].data.cast("B")

    def reduce(self, chunk: int, parts: Sequence[Part]) -> Payload:
        total = np.zeros(self.length(chunk), dtype=np.float32)
        self.part_squares = []
        with np.errstate(over="ignore", invalid="ignore"):
            for part in parts:
                values = self._values_of(chunk, part)
                self.part_squares.append(0.0 if part.payload is None else _squared_norm(values))
                total += values * np.float32(part.weight)
        if not np.isfinite(total).all():
            # Each part was finite: one is so large that the sum is not.
            largest = max(parts, key=lambda part: float(np.abs(self._values_of(chunk, part)).max()))
            raise Poisoned(largest.member, "the mean overflows", alone=False)
        return total.data.cast("B")

    def accept(self, chunk: int, payload: Payload) -> float:
        values = _floats(payload, -1, self.length(chunk))
        self.output[self._span(chunk)] = values
        return _squared_norm(values)

    def kept(self, chunk: int, payload: Payload) -> Payload:
        return payload

    def own(self, chunk: int, encoded: bool, section: slice) -> Payload:
        assert self._values is not None, "an owner has a contribution"
        return self._values[self._span(chunk)][section].data.cast("B")

    def deviation(
        self, chunk: int, parts: Sequence[Part], mean: Payload, section: slice | None = None
    ) -> tuple[float, float, float]:
        length = self.length(chunk)
        section = slice(0, length) if section is None else section
        total = np.zeros(length, dtype=np.float32)
        self.part_squares = []
        with np.errstate(over="ignore", invalid="ignore"):
            for part in parts:
                where = section if part.plain else slice(0, length)
                values = self._values_of(chunk, part, where.stop - where.start)
                self.part_squares.append(_squared_norm(values))
                total[where] += values * np.float32(part.weight)
        held = _floats(mean, -1, length).astype(np.float64)[section]
        return math.sqrt(_squared_norm(held - total[section])), 0.0, math.sqrt(_squared_norm(held))

    def _values_of(self, chunk: int, part: Part, length: int | None = None) -> npt.NDArray[np.float32]:
        if part.payload is not None:
            return _floats(part.payload, part.member, self.length(chunk) if length is None else length)
        assert self._values is not None, "an owner has a contribution"
        return _finite(self._values[self._span(chunk)], part.member)


def _floats(payload: Payload, member: int, length: int) -> npt.NDArray[np.float32]:
    if isinstance(payload, Phantom):
        raise Poisoned(member, "a phantom where bytes are due")
    if len(payload) != 4 * length:
        raise Poisoned(member, f"{len(payload)} bytes instead of {4 * length}")
    return _finite(np.frombuffer(payload, dtype=np.float32), member)


def _finite(values: npt.NDArray[np.float32], member: int) -> npt.NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise Poisoned(member, "a value is not finite")
    return values


def _squared_norm(values: npt.NDArray[np.floating]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


class PhantomReducer(_Chunked):
    """Sizes without bytes: ``bytes_per_element`` may be fractional, and a result's digest is
    that of what went into it. A mean takes ``mean_bytes_per_element``, by default the same. Norms are 0."""

    def __init__(
        self,
        num_elements: int,
        bytes_per_element: float,
        label: bytes,
        mean_bytes_per_element: float | None = None,
    ) -> None:
        super().__init__(num_elements)
        self._bytes_per_element = bytes_per_element
        self._mean_bytes = bytes_per_element if mean_bytes_per_element is None else mean_bytes_per_element
        self._label = label
        self.part_squares: list[float] = []

    def size_bytes(self, chunk: int) -> int:
        return math.ceil(self.length(chunk) * self._bytes_per_element)

    def mean_size_bytes(self, chunk: int) -> int:
        return math.ceil(self.length(chunk) * self._mean_bytes)

    def encode(self, chunk: int) -> Payload:
        return Phantom(self.size_bytes(chunk), self._label)

    def reduce(self, chunk: int, parts: Sequence[Part]) -> Payload:
        weights = np.array([part.weight for part in parts]).tobytes()
        self.part_squares = [0.0] * len(parts)
        labels = [part.payload.digest if isinstance(part.payload, Phantom) else self._label for part in parts]
        return Phantom(self.mean_size_bytes(chunk), hashlib.sha256(b"".join([weights, *labels])).digest())

    def accept(self, chunk: int, payload: Payload) -> float:
        if not isinstance(payload, Phantom) or len(payload) != self.mean_size_bytes(chunk):
            raise Poisoned(-1, "no phantom of the size that a mean has")
        return 0.0

    def kept(self, chunk: int, payload: Payload) -> Payload:
        return payload

    def own(self, chunk: int, encoded: bool, section: slice) -> Payload:
        return Phantom(4 * (section.stop - section.start), self._label)

    def deviation(
        self, chunk: int, parts: Sequence[Part], mean: Payload, section: slice | None = None
    ) -> tuple[float, float, float]:
        self.part_squares = [0.0] * len(parts)
        return 0.0, 0.0, 0.0
