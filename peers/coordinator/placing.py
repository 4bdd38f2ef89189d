"""Which stage a joiner gets: pure functions of how many replicas the stages have, and how fast they are.

The poorest stage by speed, of those that the joiner has the memory for. Whoever was told a stage and has not
entered counts as a replica of mean speed, so that joiners who come at once do not all get the same. Speeds
are numbers that members claim: one that says too much, or nothing, moves its stage by little. Decides
nothing about time, messages or who may join.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low

BYTES_PER_PARAMETER = 16
"""That a replica needs at least, in fp32: parameter, gradient and the two moments of its inner optimizer."""
MAX_FROM_MEDIAN = 4.0
"""How many times the median speed, or what part of it, a replica is believed to have."""


MAX_ABOVE_MEDIAN = 2.0
"""How many times the lower median of its stage one replica is believed to have for its share of the work."""


def believed_speeds(claims: Mapping[bytes, float]) -> dict[bytes, float]:
    """By replica of one stage: its speed, as far as its word is believed beside the others'; 0 if it told
    none. Of two the slower one is the measure: whoever says too much gets twice its share at the most."""
    told = [speed for speed in claims.values() if speed > 0.0]
    median = median_low(told or [0.0])
    low, high = median / MAX_FROM_MEDIAN, median * MAX_ABOVE_MEDIAN
    return {key: min(max(speed, low), high) if speed > 0.0 else 0.0 for key, speed in claims.items()}


@dataclass(frozen=True, slots=True)
class StageLoad:
    """A stage, and who trains it."""

    number: int
    speeds: tuple[float, ...] = ()
    """Of its replicas, as far as they are known, in any unit."""
    num_unmeasured: int = 0
    """Replicas of which none is known, and joiners who are about to become one."""
    needed_bytes: int = 0
    """Memory that a replica needs; 0 if it is not known."""

    @property
    def num_replicas(self) -> int:
        """Replicas, and those that are about to be."""
        return len(self.speeds) + self.num_unmeasured

    def fits(self, memory_bytes: int) -> bool:
        """Whether so much memory is enough; 0 is one that nobody told."""
        return not memory_bytes or self.needed_bytes <= memory_bytes


def choose(stages: Sequence[StageLoad], memory_bytes: int, max_replicas: int) -> StageLoad | None:
    """The stage with the least total speed that has a place and fits the memory; None without any. Of equal
    ones that with the fewest replicas, then the first."""
    median = median_low([speed for each in stages for speed in each.speeds] or [0.0])
    believed = [[_believed(speed, median) for speed in each.speeds] for each in stages]
    everybody = [speed for speeds in believed for speed in speeds]
    mean = fmean(everybody) if everybody else 1.0

    def poverty(index: int) -> tuple[float, int, int]:
        each = stages[index]
        return sum(believed[index]) + mean * each.num_unmeasured, each.num_replicas, each.number

    free = [
        index
        for index, each in enumerate(stages)
        if each.num_replicas < max_replicas and each.fits(memory_bytes)
    ]
    return stages[min(free, key=poverty)] if free else None


def _believed(speed: float, median: float) -> float:
    if not median:
        return 1.0  # nobody, or only the slowest half, says that it moves at all
    return min(max(speed, median / MAX_FROM_MEDIAN), median * MAX_FROM_MEDIAN)
