"""Which stage a joiner gets, and who moves: pure functions of the replicas of stages, and how fast they are.

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


WORTH = 1.2
"""What the speed of the poorest stage that a move changes must gain."""
MAX_ABOVE_MEDIAN = 2.0
"""How many times the lower median of its stage one replica is believed to have for its share of the work."""


def believed_speeds(claims: Mapping[bytes, float]) -> dict[bytes, float]:
    """By replica of one stage: its speed in parts of the lower median, as far as its word is believed beside
    the others'; 0 if it told none. Of two the slower one is the measure: whoever says too much gets twice its
    share at the most. So who is first to tell counts as one of mean speed, as before, in the others' turns,
    and no claim, however small, is a measure that is lost in theirs."""
    told = [speed for speed in claims.values() if speed > 0.0]
    median = median_low(told or [1.0])
    low, high = 1.0 / MAX_FROM_MEDIAN, MAX_ABOVE_MEDIAN
    return {key: min(max(speed / median, low), high) if speed > 0.0 else 0.0 for key, speed in claims.items()}


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
    num_coming: int = 0
    """Others who are about to be replicas, where that is told apart."""
    has_state: bool = True
    """Somebody who is here holds its state: to others nobody moves."""

    @property
    def num_replicas(self) -> int:
        """Replicas, and those that are about to be."""
        return len(self.speeds) + self.num_unmeasured

    def fits(self, memory_bytes: int) -> bool:
        """Whether so much memory is enough; 0 is one that nobody told."""
        return not memory_bytes or self.needed_bytes <= memory_bytes


@dataclass(frozen=True, slots=True)
class Movable:
    """A replica that may be told to train another stage."""

    key: bytes
    stage: int
    speed: float
    memory_bytes: int = 0
    """What it has for a stage; 0 if it did not say."""


@dataclass(frozen=True, slots=True)
class Move:
    """Which replica is to train which other stage."""

    key: bytes
    to: int


def best_move(stages: Sequence[StageLoad], movable: Sequence[Movable], fewest_left: int) -> Move | None:
    """The move after which the slowest stage is fastest; of those that leave it the same, the next slowest,
    and so on. None if the first of those that changes does not gain `WORTH`: so two equally poor stages are
    helped one after the other, though the first move alone does not lift the least. Nobody leaves a stage to
    less than ``fewest_left``, nor to nobody."""
    speeds = {each.number: _speeds_of(stages, each) for each in stages}
    before = {number: sum(each) for number, each in speeds.items()}
    left = {each.number: each.num_replicas - 1 for each in stages}
    best, found = sorted(before.values()), None
    for each in movable:
        for to in stages:
            is_left = left[each.stage] >= max(1, fewest_left)
            if to.number == each.stage or not is_left or not to.has_state or not to.fits(each.memory_bytes):
                continue
            speed = min(max(speeds[each.stage]), max(min(speeds[each.stage]), each.speed))
            gained = speed / fmean(speeds[each.stage]) * fmean(speeds[to.number] or [1.0])
            after = {**before, each.stage: before[each.stage] - speed}
            after[to.number] += gained
            ranked = sorted(after.values())
            if ranked > best and _is_worth(sorted(before.values()), ranked):
                best, found = ranked, Move(each.key, to.number)
    return found


def _is_worth(before: Sequence[float], after: Sequence[float]) -> bool:
    changed = next(((a, b) for a, b in zip(before, after, strict=True) if abs(b - a) > 1e-9 * a), None)
    return changed is not None and changed[1] >= WORTH * changed[0]


def _speeds_of(stages: Sequence[StageLoad], stage: StageLoad) -> list[float]:
    """As far as they are believed; who told none has the mean of its stage, or of all."""
    median = median_low([speed for each in stages for speed in each.speeds] or [0.0])
    known = [_believed(speed, median) for speed in stage.speeds]
    everybody = [_believed(speed, median) for each in stages for speed in each.speeds]
    mean = fmean(known or everybody or [1.0])
    return known + [mean] * (stage.num_unmeasured + stage.num_coming)


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
