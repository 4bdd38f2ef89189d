"""Norms of what an exchange decodes, against what may be: nobody's word about its own part is believed.

An owner measures the parts of its chunks, author by author; everyone measures the means, owner by owner. A
mean of vectors is no longer than the longest of them, so a longer one was made up. Squared norms, for they
add up over chunks. Sums only: what follows is up to the exchange, and to whoever it reports to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NormLimits:
    """The largest squared norms that an attempt allows; by default any."""

    parts: tuple[float, ...] = ()
    """By founder, of all that it contributes."""
    mean: float = math.inf
    """Of all means of one owner."""


NO_LIMITS = NormLimits()


class MeasuredNorms:
    """What one member has measured in one attempt."""

    def __init__(self, num_founders: int, limits: NormLimits) -> None:
        self.parts = [0.0] * num_founders
        """By founder: the squared norm of its parts of our chunks."""
        self._limits = limits
        self._means: dict[bytes, float] = {}

    def add_parts(self, squares: Iterable[tuple[int, float]]) -> int | None:
        """Parts of one more chunk: indexes of founders, with squared norms. The founder whose contribution is
        longer than it may be, if there is one."""
        found = None
        for founder, square in squares:
            self.parts[founder] += square
            if self._limits.parts and self.parts[founder] > self._limits.parts[founder]:
                found = founder
        return found

    def add_mean(self, owner: bytes, square: float) -> bool:
        """One more mean of that owner; False if together they are longer than any mean may be."""
        self._means[owner] = self._means.get(owner, 0.0) + square
        return self._means[owner] <= self._limits.mean
