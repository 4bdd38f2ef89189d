"""Whether a worker learns what all the others learn, bit by bit: they seem to train on the same data.

A member has its own contribution and the mean of all: what is left of the mean without its own part is that
of the others, so that no byte more travels. Owns the comparison and for how many rounds in a row it held.
"""

from __future__ import annotations

import math

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
        """In how many rounds in a row it was so."""

    def take(self, own: Tensor, mean: Tensor, share: float) -> None:
        """A round is committed whose mean has ``own`` [k], as it was sent, with that ``share``. Nothing is
        known from zeros, or where nobody else took part."""
        if not 0.0 < share < _ALL:
            return
        rest = mean - share * own
        norms = float(own.norm()) * float(rest.norm())
        if not 0.0 < norms < math.inf:
            return
        self.num_rounds = self.num_rounds + 1 if float(torch.dot(own, rest)) > _ALIKE * norms else 0
