"""Which way a microbatch goes: one replica of each stage. From the roster, without time or messages.

With lines a feeder's microbatches take the replicas of its own line. Where that one is missing they take
one whose line has no feeder, and else any, spread by number. By throughput they are shared out to all
replicas of a stage in proportion to their speeds, by interleaved weighted round robin (SWARM, arXiv
2301.11913); at random each number has a permutation of each stage, so that feeders in step do not collide
(NoLoCo, arXiv 2506.10911). A speed is what the coordinator believes; who holds much more than its share of
what is under way gets nothing new meanwhile, whatever its speed is said to be. Nothing depends on two peers
choosing the same replacement: their rosters differ. All the same nothing is drawn: the same roster gives the
same replacement.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from peers.protocol.placing import Wiring
from peers.routing.replicas import Replica, Replicas

MAX_OF_SHARE = 1.5
"""How many times its share of what is under way a replica may hold, and one more."""
ALIKE = 1.25
"""The fastest of replicas that are alike is at most so many times as fast as the slowest."""


class Wires:
    """How one member chooses. With `Wiring.THROUGHPUT` it remembers whose turn it is."""

    def __init__(self, kind: Wiring, seed: int = 0) -> None:
        self.kind = kind
        self._seed = seed
        self._turns: dict[int, float] = {}
        """By membership: the virtual time of its next turn."""

    def path(
        self, replicas: Replicas, feeder: int, number: int, under_way: Iterable[Sequence[int]] = ()
    ) -> tuple[int, ...] | None:
        """The memberships that a feeder's microbatch goes through, its own first; None if a stage has nobody
        that takes new ones. ``under_way`` are the paths of its microbatches that have not ended."""
        if not has_path(replicas):
            return None
        if self.kind is not Wiring.THROUGHPUT:
            chosen = (self.replica(replicas, s, feeder, number) for s in range(1, replicas.stages))
            return (feeder, *(each.since for each in chosen if each is not None))
        self._turns = {since: at for since, at in self._turns.items() if replicas.standing(since)}
        paths = list(under_way)
        stages = range(1, replicas.stages)
        return (feeder, *(self._next(replicas, s, Counter(path[s] for path in paths)) for s in stages))

    def replica(
        self, replicas: Replicas, stage: int, feeder: int, number: int, *, drains_too: bool = False
    ) -> Replica | None:
        """Who takes a microbatch at a stage in the place of one who is gone; None if nobody does. One who
        leaves takes no new path, but a microbatch that is under way where there is nobody else."""
        there = self._takers(replicas, stage, feeder, drains_too=drains_too)
        if not there:
            return None
        if self.kind is Wiring.LINES:
            return there[(feeder + number) % len(there)]
        if self.kind is Wiring.RANDOM:
            feeders = [each.since for each in replicas.at(0) if not each.drains]
            if feeder in feeders and len(feeders) == len(there) and _are_alike(there):
                by_chance = sorted(there, key=lambda each: self._chance(stage, number, each.since))
                return by_chance[feeders.index(feeder)]
        speeds = _speeds(there)
        return min(
            there, key=lambda each: -math.log(self._chance(feeder, number, each.since)) / speeds[each.since]
        )

    def is_fed(self, replicas: Replicas, stage: int, since: int) -> bool:
        """Whether a feeder that stands may have chosen a replica for what it feeds."""
        feeders = [each.since for each in replicas.at(0) if each.feeds]
        return any(taker.since == since for by in feeders for taker in self._takers(replicas, stage, by))

    # -- inside -------------------------------------------------------------------------------

    def _takers(
        self, replicas: Replicas, stage: int, feeder: int, *, drains_too: bool = False
    ) -> list[Replica]:
        """Those among whom a feeder's microbatches are shared out."""
        here = replicas.at(stage)
        there = [each for each in here if not each.drains] or (here if drains_too else [])
        if self.kind is not Wiring.LINES:
            return there
        mine = replicas.standing(feeder)
        own = [each for each in there if mine is not None and each.line == mine.line]
        if own:
            return own[:1]
        fed = {each.line for each in replicas.at(0)}
        return [each for each in there if each.line not in fed] or there

    def _next(self, replicas: Replicas, stage: int, held: Counter[int]) -> int:
        there = self._takers(replicas, stage, 0)
        speeds, turns = _speeds(there), self._turns
        first = min((turns[each.since] for each in there if each.since in turns), default=0.0)
        for each in there:
            turns.setdefault(each.since, first)  # who is new owes nobody the turns before it came
        most = MAX_OF_SHARE * (1 + sum(held[each.since] for each in there)) / sum(speeds.values())
        free = [each.since for each in there if held[each.since] <= most * speeds[each.since]]
        chosen = min(free or speeds, key=lambda since: (turns[since], since))
        for since in speeds:
            if since not in free:
                turns[since] = max(turns[since], turns[chosen])  # it is slower than it is said to be
        turns[chosen] += 1.0 / speeds[chosen]
        return chosen

    def _chance(self, *names: int) -> float:
        """A number between 0 and 1 that everybody finds for these names."""
        name = " ".join(map(str, (self._seed, *names))).encode()
        return (1 + int.from_bytes(blake2b(name, digest_size=6).digest(), "big")) / (2 + (1 << 48))


def has_path(replicas: Replicas) -> bool:
    """Whether each stage above the first has somebody that takes new microbatches."""
    return all(any(not each.drains for each in replicas.at(s)) for s in range(1, replicas.stages))


def quota_of(wiring: Wiring, replicas: Replicas, stage: int, since: int, quota: int) -> int:
    """Microbatches of an inner step of a replica: ``quota`` for one of mean speed. In proportion to speed, so
    that all replicas of a stage take equally many steps; with lines all stages of a line take equal ones."""
    here = replicas.at(stage)
    if wiring is Wiring.LINES or all(each.since != since for each in here):
        return quota
    speeds = _speeds(here)
    return max(1, round(quota * speeds[since] * len(speeds) / sum(speeds.values())))


def _speeds(replicas: Sequence[Replica]) -> dict[int, float]:
    """By membership; who told none yet has the mean of the others."""
    known = [each.speed for each in replicas if each.speed > 0.0]
    mean = sum(known) / len(known) if known else 1.0
    return {each.since: each.speed or mean for each in replicas}


def _are_alike(replicas: Sequence[Replica]) -> bool:
    speeds = _speeds(replicas).values()
    return max(speeds) <= ALIKE * min(speeds)
