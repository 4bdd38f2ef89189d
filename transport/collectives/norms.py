"""Norms of what an exchange decodes, against what may be: nobody's word about its own part is believed.

An owner measures the parts of its chunks, author by author; everyone measures the means, owner by owner. A
mean of vectors is no longer than the longest of them, so a longer one was made up. Squared norms, for they
add up over chunks. Sums only: what follows is up to the exchange, and to whoever it reports to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NormLimits:
    """The largest squared norms that an attempt allows; by default any."""

    parts: tuple[float, ...] = ()
    """By founder, of all that it contributes."""
    mean: float = math.inf
    """Of all means of one owner."""


NO_LIMITS = NormLimits()
_CLEARLY = 1.002
"""How many times a limit what is shown of a vector is together, so that another one who measures it finds it
above the limit too."""


class MeasuredNorms:
    """What one member has measured in one attempt."""

    def __init__(self, num_founders: int, limits: NormLimits) -> None:
        self.parts = [0.0] * num_founders
        """By founder: the squared norm of its parts of our chunks."""
        self._limits = limits
        self._means: dict[bytes, float] = {}
        self._by_chunk: dict[int | bytes, dict[int, float]] = {}
        """The same squares by founder, or owner, and chunk."""

    def add_parts(self, chunk: int, squares: Iterable[tuple[int, float]]) -> int | None:
        """Parts of one more chunk: indexes of founders, with squared norms. The founder whose contribution is
        longer than it may be, if there is one."""
        found = None
        for founder, square in squares:
            self.parts[founder] += square
            self._by_chunk.setdefault(founder, {})[chunk] = square
            if self._limits.parts and self.parts[founder] > self._limits.parts[founder]:
                found = founder
        return found

    def add_mean(self, owner: bytes, chunk: int, square: float) -> bool:
        """One more mean of that owner; False if together they are longer than any mean may be."""
        self._means[owner] = self._means.get(owner, 0.0) + square
        self._by_chunk.setdefault(owner, {})[chunk] = square
        return self._means[owner] <= self._limits.mean

    def long_parts(self, founder: int) -> tuple[int, ...]:
        """The fewest chunks of a founder that show that its contribution is too long."""
        return _fewest_above(self._by_chunk[founder], self._limits.parts[founder])

    def long_means(self, owner: bytes) -> tuple[int, ...]:
        """The fewest chunks of an owner that show that its means are too long."""
        return _fewest_above(self._by_chunk[owner], self._limits.mean)


def _fewest_above(squares: Mapping[int, float], limit: float) -> tuple[int, ...]:
    """The longest chunks that together are clearly above the limit, the longest first; all there are, if they
    are not clearly above it."""
    found: list[int] = []
    total = 0.0
    for chunk in sorted(squares, key=lambda each: (-squares[each], each)):
        if total > _CLEARLY * limit:
            break
        found.append(chunk)
        total += squares[chunk]
    return tuple(found)
