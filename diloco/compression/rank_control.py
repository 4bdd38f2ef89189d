"""How strongly to compress: which matrix deserves which rank, and how rank and H shrink together.

Owns the decisions, as pure functions of numbers that all members share, so that all decide alike: exact
integers and fractions, or single operations of Python's floats, in a written order. (`sum` of floats is not
such: newer Pythons compensate it.) Owns no tensors, reads no clock and keeps no history: the caller stores it
with the shared state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import numpy as np

ENERGY_SHARE = 0.99
"""Share of an update's squared length that its effective rank holds."""


def tails(energies: Sequence[float]) -> list[float]:
    """tails[c] = energies[c] + energies[c + 1] + ..., for c from 0 to their number, where it is 0."""
    return list(accumulate(reversed(energies), initial=0.0))[::-1]


def effective_rank(energies: Sequence[float], share: float = ENERGY_SHARE) -> int:
    """The smallest r such that the first r of ``energies`` (squared singular values, largest first) hold
    ``share`` of them all; 0 if all are 0. DiLoCoX (arXiv 2506.21263) leaves the measure open; this reading of
    it needs no logarithm, which machines would round differently."""
    left = tails(energies)
    return next(rank for rank, tail in enumerate(left) if tail <= (1.0 - share) * left[0])


@dataclass(frozen=True, slots=True)
class RankController:
    """Adaptive rank and H of DiLoCoX (arXiv 2506.21263): the rank follows the mean effective rank of the last
    ``window`` averaged updates, and H shrinks with it, so that an exchange still takes as long as the steps
    that hide it.

        r_{t+1} = ceil(mean of the last c effective ranks), from min_rank to r_1
        H_{t+1} = max(1, round(H_1 r_{t+1} / r_1)), halves up

    An update that was compressed shows at most the rank that it was compressed to, so that the rank hardly
    grows again: ``min_rank`` is the floor."""

    first_rank: int
    min_rank: int = 1
    window: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.min_rank <= self.first_rank or self.window < 1:
            raise ValueError(f"min_rank, first_rank and window do not fit together: {self}")

    def next(self, history: Sequence[int]) -> int:
        """The next rank, from the effective ranks so far, the latest last; the first one until ``window`` are
        known."""
        if len(history) < self.window:
            return self.first_rank
        mean = -(-sum(history[-self.window :]) // self.window)
        return min(max(mean, self.min_rank), self.first_rank)

    def sync_every(self, rank: int, first_sync_every: int) -> int:
        """H for a rank, from H at the first rank."""
        return max(1, (2 * first_sync_every * rank + self.first_rank) // (2 * self.first_rank))


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What committed updates show of one matrix: its shape, and what orthonormal directions hold of its
    squared length, strongest first. Each is what the error gains when that direction is left out. They are
    close to the squared singular values, of which the first k hold at least as much as any k directions."""

    rows: int
    columns: int
    energies: Sequence[float]

    def candidates(self) -> tuple[list[int], list[int], list[float]]:
        """Ranks to choose from, half to twice the reference of `share_ranks`; their sizes, in elements of
        both factors; and their errors."""
        ranks = list(range(max(1, self.reference // 2), len(self.energies) + 1))
        left = tails(self.energies)
        sizes = [rank * (self.rows + self.columns) for rank in ranks]
        return ranks, sizes, [math.sqrt(left[rank]) for rank in ranks]

    @property
    def reference(self) -> int:
        """Half the largest rank, rounded up."""
        return -(-len(self.energies) // 2)


def share_ranks(spectra: Sequence[Spectrum]) -> list[int]:
    """The rank of each matrix that makes the whole message smallest, with a squared error not above that of
    the same compression for all, at half the largest rank: L-GreCo (arXiv 2210.17357) with alpha = 1."""
    candidates = [spectrum.candidates() for spectrum in spectra]
    budget = Fraction(0)
    for spectrum in spectra:
        budget += Fraction(tails(spectrum.energies)[spectrum.reference])
    # The largest ranks leave no error, so that some choice always keeps the budget.
    chosen = choose(
        [sizes for _, sizes, _ in candidates], [errors for *_, errors in candidates], float(budget)
    )
    return [ranks[index] for (ranks, _, _), index in zip(candidates, chosen, strict=True)]


def choose(
    sizes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: float, buckets: int = 10_000
) -> list[int]:
    """For each layer the index of its candidate, such that the total size is smallest while the sum of
    squared errors stays within ``budget``: L-GreCo (arXiv 2210.17357), algorithm 1.

    A dynamic programme over squared errors in units of budget / buckets, each rounded up, exactly: the budget
    is never exceeded, and the total is smallest up to one unit per layer. Where that rounding leaves nothing,
    the most accurate candidates are taken. Among equal totals, later layers take their lowest index first.
    Raises ValueError if no choice keeps the budget."""
    levels = [_levels(each, budget, buckets) for each in errors]
    # smallest[b]: total size of the layers so far within b units. `never` stays far from overflow.
    never = 2**62
    smallest = np.zeros(buckets + 1, dtype=np.int64)
    picks = []
    for layer_sizes, layer_levels in zip(sizes, levels, strict=True):
        best = np.full(buckets + 1, never, dtype=np.int64)
        pick = np.zeros(buckets + 1, dtype=np.int32)
        for index, (size, level) in enumerate(zip(layer_sizes, layer_levels, strict=True)):
            totals = np.minimum(smallest[: max(0, buckets + 1 - level)] + size, never)
            better = totals < best[level:]
            best[level:][better] = totals[better]
            pick[level:][better] = index
        smallest = best
        picks.append(pick)
    if smallest[buckets] == never:
        return _most_accurate(errors, budget)
    chosen, room = [], buckets
    for pick, layer_levels in zip(reversed(picks), reversed(levels), strict=True):
        chosen.append(int(pick[room]))
        room -= layer_levels[chosen[-1]]
    return chosen[::-1]


def _levels(errors: Sequence[float], budget: float, buckets: int) -> list[int]:
    """Squared errors in units of budget / buckets, rounded up; buckets + 1 for all that exceed the budget."""
    limit = Fraction(budget)
    squares = [Fraction(error) ** 2 for error in errors]
    return [
        math.ceil(square * buckets / limit) if 0 < square <= limit else (buckets + 1 if square else 0)
        for square in squares
    ]


def _most_accurate(errors: Sequence[Sequence[float]], budget: float) -> list[int]:
    chosen = [min(range(len(each)), key=each.__getitem__) for each in errors]
    least = Fraction(0)
    for each, index in zip(errors, chosen, strict=True):
        least += Fraction(each[index]) ** 2
    if least > Fraction(budget):
        raise ValueError(f"the budget is {budget}, but the least sum of squared errors is {float(least)}")
    return chosen
