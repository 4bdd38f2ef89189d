"""How far one member may move a mean: pure functions over what members offer.

From `FEWEST_JUDGES` members on the lower medians of weights and norms are those of an honest member, as long
as most are honest; below that no majority can judge, weights stand as offered, and a norm is held against the
member's own earlier ones alone. Decides nothing about rounds, and keeps nothing but `NormHistory`. Part of
S12.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

FEWEST_JUDGES = 4
"""Members from which on most of them can judge one."""
REMEMBERED = 16
"""Committed norms against which the next one of the same member is held."""
GROWTH = 10.0
"""How many times the largest of those a norm may be."""
_LEAST = 1e-200
"""What is left of a weight at least: a member of a round has one above 0."""


def limits_of(max_influence: float) -> tuple[float, float]:
    """How many times the median a weight may be, and how many times the median a norm: 4 and 3 of 12, and of
    every other product in the same ratio."""
    return math.sqrt(max_influence * 4 / 3), math.sqrt(max_influence * 3 / 4)


def effective_weights(
    weights: Sequence[float], norms: Sequence[float], max_influence: float
) -> tuple[float, ...]:
    """The weights with which contributions enter a mean, each in (0, offered]:

        min(w, a * lower median of weights) * min(1, b * lower median of norms / norm)

    with a * b = max_influence, so that weight times norm is at most ``max_influence`` times the product of
    the medians. Of fewer than `FEWEST_JUDGES` members, or with a ``max_influence`` of 0, weights stand as
    offered."""
    if len(weights) < FEWEST_JUDGES or not max_influence:
        return tuple(weights)
    largest, longest = limits_of(max_influence)
    most, far = largest * _lower_median(weights), longest * _lower_median(norms)
    return tuple(
        min(weight, most) * (1.0 if norm <= far else max(_LEAST, far / norm))
        for weight, norm in zip(weights, norms, strict=True)
    )


def _lower_median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


@dataclass(slots=True)
class NormHistory:
    """The norms of a member's last committed contributions to one fragment, and how it went on since."""

    committed: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    times: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """When that was, by our own clock."""
    num_refused: int = 0
    """Contributions that were refused since the last commit. Each makes the next bound wider: who has really
    changed comes in after a few, and nobody faster than by `GROWTH` each."""

    def bound(self, now: float) -> float:
        """The largest norm that is taken now; infinity if there is nothing to compare with. Who was not
        committed for n times as long as usual, as while the host was away, trained on, and may have come n
        times as far."""
        largest = max(self.committed, default=0.0)
        if largest <= 0.0:
            return math.inf
        return largest * self._pause(now) * GROWTH ** (1 + min(self.num_refused, 300))

    def commit(self, now: float, norm: float) -> None:
        """A contribution of that norm is in a record."""
        self.committed.append(norm)
        self.times.append(now)
        self.num_refused = 0

    def _pause(self, now: float) -> float:
        """How many times the usual time between two commits passed since the last one, or before it: what
        waited for the host is committed first, and what came of the wait next."""
        gaps = [later - earlier for earlier, later in pairwise(self.times)]
        if not gaps or (usual := _lower_median(gaps)) <= 0.0:
            return 1.0
        return max(1.0, gaps[-1] / usual, (now - self.times[-1]) / usual)
