"""Whether the norm that a member claims is that of what it sent, by what the owners of chunks measured.

The claim is of the contribution before it is encoded. Rounding makes it longer at most by what the codec's
row says (`growth`), so a claim bounds what owners may measure; they may well measure less. An owner is not
believed more than an author: see `witnesses`. Pure. Part of S12.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peers.protocol.evidence import Shown

SLACK = 1.001
"""For sums in fp32 that are made in another order."""
MEAN_SLACK = 1.1
BAND = 1e-3
"""So far above or below a limit is clear: two who decode the same bytes add squares up in other orders."""
_ELEMENT = 2.0**-24
"""How much longer an element may become beside that: float16 has steps of 2^-24 below 2^-14, and a
contribution, and then a mean of some, may each be rounded by half a step."""


def part_limit(norm: float, num_elements: int, growth: float) -> float:
    """The largest squared norm that parts may have together of which their author claims ``norm``."""
    return SLACK * (math.sqrt(growth) * norm + _ELEMENT * math.sqrt(num_elements)) ** 2


def mean_limit(part_limits: Sequence[float], growth: float) -> float:
    """The largest squared norm that the means of one owner may have together: means are no longer than the
    longest of what they are made of, but for what encoding them adds."""
    return MEAN_SLACK * growth * max(part_limits)


def witnesses(measured: Mapping[bytes, float], limit: float) -> list[bytes]:
    """The owners who dispute a claim, from what each measured of its author; none, if it stands.

    An owner whose measure alone is above the limit disputes it: one of the two is wrong. Below that the sum
    does, if it still does without its largest term, since no single owner can make that up: then those with
    the largest terms dispute it, as many as it takes."""
    alone = [owner for owner, square in measured.items() if square > limit]
    if alone:
        return alone
    total, found = sum(measured.values()), []
    for owner in sorted(measured, key=lambda each: (-measured[each], each)):
        if total <= limit:
            break
        total -= measured[owner]
        found.append(owner)
    return found if len(found) > 1 else []


@dataclass(slots=True)
class LengthsShown:
    """Chunks of one author that an accuser shows one after another, for together they are too long."""

    first: Shown
    """The others are of the same author and kind, and as many in all."""
    squares: dict[int, float] = field(default_factory=dict)
    """By chunk, as the coordinator measured it."""

    def takes(self, shown: Shown) -> bool:
        """Whether a chunk is one of these, and new."""
        one, other = ((s.author, s.attempt, s.mean, s.num_elements, s.num_long) for s in (self.first, shown))
        return one == other and shown.chunk not in self.squares

    @property
    def complete(self) -> bool:
        """Whether all were shown."""
        return len(self.squares) >= self.first.num_long

    def too_long(self, limit: float) -> bool | None:
        """Whether they are; None while more is to come, or if it is too close to tell."""
        total = sum(self.squares.values())
        if total > limit * (1 + BAND):
            return True
        return False if self.complete and total < limit * (1 - BAND) else None
