"""Low-rank factors of a matrix as sizes: which rank it gets, and how many values that is.

Owns the rule by which a tensor is compressed or travels whole, for `compression.low_rank`, which makes the
factors, and for `cost`, which counts them. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def sides_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix [shape[0], rest]; with fewer than two dimensions it is one
    row."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def rank_of(rows: int, columns: int, rank: int, rank_share: float = 0.0) -> int:
    """The rank for a matrix of this shape, or, with ``rank_share``, that share of its shorter side; 0 if
    factors would not be smaller than it."""
    shorter = min(rows, columns)
    rank = int(rank_share * shorter) if rank_share else min(rank, shorter)
    return rank if rank * (rows + columns) < rows * columns else 0


def values_sent(shapes: Iterable[Sequence[int]], rank: int, rank_share: float = 0.0) -> int:
    """Values that an outer step sends of tensors of these shapes: both factors, or the whole tensor."""
    total = 0
    for rows, columns in map(sides_of, shapes):
        each = rank_of(rows, columns, rank, rank_share)
        total += each * (rows + columns) if each else rows * columns
    return total


def values_kept(shapes: Iterable[Sequence[int]], rank: int, rank_share: float = 0.0) -> int:
    """Values of the shared bases of tensors of these shapes: room for either side's."""
    sides = map(sides_of, shapes)
    return sum(rank_of(rows, columns, rank, rank_share) * max(rows, columns) for rows, columns in sides)
