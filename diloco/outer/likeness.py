"""Whether a worker learns bit by bit what others do, all or one of them: they seem to train on the same data.

A member has its own contribution and the mean of all: what is left of the mean without its own part is that
of the others. Of the chunk that it owns it has the part of each. So no byte more travels. Owns the comparison
and for how many rounds in a row it held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

ROUNDS = 3
"""Rounds in a row after which it is told."""
_ALIKE = 0.99
_ALL = 0.999
"""A share of the weights above which nothing can be said of the others."""


class Likeness:
    """Of the contributions to one fragment."""

    def __init__(self) -> None:
        self.num_rounds = 0
        """In how many rounds in a row all others were like this worker."""
        self._of_each: dict[int, int] = {}
        """The same of single ones, by their place among the members."""

    @property
    def twins(self) -> list[int]:
        """Places of those that were like this worker for `ROUNDS` rounds."""
        return [place for place, num_rounds in self._of_each.items() if num_rounds >= ROUNDS]

    def take(self, own: Tensor, mean: Tensor, share: float) -> None:
        """A round is committed whose mean has ``own`` [k], as it was sent, with that ``share``. Nothing is
        known from zeros, or where nobody else took part."""
        found = _is_alike(own, mean - share * own) if 0.0 < share < _ALL else None
        if found is not None:
            self.num_rounds = self.num_rounds + 1 if found else 0

    def take_each(self, others: Iterable[tuple[int, Tensor, Tensor]]) -> None:
        """Of the same round, what this worker sent and what single others did, each with its place."""
        alike = [place for place, own, theirs in others if _is_alike(own, theirs)]
        self._of_each = {place: self._of_each.get(place, 0) + 1 for place in alike}


def _is_alike(own: Tensor, theirs: Tensor) -> bool | None:
    norms = float(own.norm()) * float(theirs.norm())
    return float(torch.dot(own, theirs)) > _ALIKE * norms if 0.0 < norms < math.inf else None
