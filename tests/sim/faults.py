"""Faults of one seed: drawn as a list first, so that a run can be replayed and shrunk.

A fault phase in which anything may happen at any moment, then a quiet phase: everything heals,
crashed peers restart, and the swarm must converge.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from tests.sim.world import HOST, World, key_of

KINDS = (
    "crash",
    "crash_between_effects",
    "freeze",
    "reset",
    "partition",
    "cut",
    "join",
    "degrade",
    "host_crash",
    "host_crash_between_effects",
)


@dataclass(frozen=True)
class Fault:
    """One fault: when, what, whom; ``number`` means what the kind makes of it."""

    at_s: float
    kind: str
    who: int
    other: int = 0
    number: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:.3f} {self.kind} {self.who} {self.other} {self.number:.3f}"


def draw_faults(rng: random.Random, num_workers: int, until_s: float) -> list[Fault]:
    """A random subset of kinds at a random rate (swarm testing)."""
    kinds = [kind for kind in KINDS if rng.random() < 0.5] or ["crash"]
    rate = rng.choice([0.1, 0.3, 0.8])
    faults: list[Fault] = []
    at = rng.uniform(0.5, 3.0)
    while at < until_s:
        who, other = rng.sample(range(num_workers), 2)
        faults.append(Fault(at, rng.choice(kinds), who, other, rng.random()))
        at += rng.expovariate(rate)
    return faults


class Injector:
    """Carries faults out. A fault that makes no sense any more is skipped, and not counted."""

    def __init__(self, world: World, faults: list[Fault]) -> None:
        self.world = world
        self.fired: Counter[str] = Counter()
        for fault in faults:
            world.net.at(fault.at_s, lambda f=fault: self._fire(f))

    def _fire(self, fault: Fault) -> None:
        if getattr(self, f"_{fault.kind}")(fault):
            self.fired[fault.kind] += 1

    def _crash(self, fault: Fault) -> bool:
        if not self.world.alive(fault.who) or self._last_holder(fault.who):
            return False
        self.world.crash(fault.who)
        self.world.net.at(0.5 + 6 * fault.number, lambda: self.world.restart(fault.who))
        return True

    def _crash_between_effects(self, fault: Fault) -> bool:
        if not self.world.alive(fault.who) or self._last_holder(fault.who):
            return False
        self.world.net.crash_after(key_of(fault.who), int(fault.number * 40))
        self.world.net.at(4.0 + 6 * fault.number, lambda: self._make_sure(fault.who))
        return True

    def _make_sure(self, who: int) -> None:
        self.world.crash(who)
        self.world.restart(who)

    def _last_holder(self, who: int) -> bool:
        """Without checkpoints, a swarm that loses its last holder of the state has lost it: that is
        no fault to recover from, so two are left alive."""
        holders = []
        for index in self.world.living():
            member = self.world.workers[index].node.member
            if member and member.following.holds_state and self.world.alive(index):
                holders.append(index)
        return who in holders and len(holders) <= 2

    def _freeze(self, fault: Fault) -> bool:
        key = key_of(fault.who)
        if fault.who not in self.world.lives or not self.world.alive(fault.who):
            return False
        life = self.world.lives[fault.who]
        self.world.net.freeze(key)

        def thaw() -> None:
            if self.world.lives[fault.who] == life and self.world.net.peers[key].alive:
                self.world.net.thaw(key)

        self.world.net.at(0.2 + 8 * fault.number, thaw)
        return True

    def _reset(self, fault: Fault) -> bool:
        other = HOST if fault.number < 0.3 else fault.other
        self.world.net.reset(key_of(fault.who), key_of(other))
        return True

    def _partition(self, fault: Fault) -> bool:
        workers = list(range(self.world.num_workers))
        random.Random(fault.number).shuffle(workers)
        away = workers[: 1 + int(fault.number * len(workers) * 0.7)]
        host_away = fault.number < 0.2
        groups = [[key_of(i) for i in workers[len(away) :]], [key_of(i) for i in away]]
        groups[1 if host_away else 0].append(key_of(HOST))
        self.world.net.partition(groups)
        self.world.net.at(1.0 + 6 * fault.number, self.world.net.heal)
        return True

    def _cut(self, fault: Fault) -> bool:
        self.world.net.cut(key_of(fault.who), key_of(fault.other))
        self.world.net.at(1.0 + 8 * fault.number, self.world.net.heal)
        return True

    def _join(self, fault: Fault) -> bool:
        new = max(self.world.num_workers - 1, *self.world.lives) + 1
        if new >= min(40, 2 * self.world.num_workers + 2) or new in self.world.lives:
            return False
        self.world.start_worker(new)
        return True

    def _degrade(self, fault: Fault) -> bool:
        if not self.world.alive(fault.who):
            return False
        self.world.net.degrade(key_of(fault.who), 1 + 8 * fault.number)
        return True

    def _host_crash(self, fault: Fault) -> bool:
        if not self.world.net.peers[key_of(HOST)].alive:
            return False
        self.world.crash(HOST)
        self.world.net.at(0.3 + 6 * fault.number, lambda: self.world.restart(HOST))
        return True

    def _host_crash_between_effects(self, fault: Fault) -> bool:
        if not self.world.net.peers[key_of(HOST)].alive:
            return False
        self.world.net.crash_after(key_of(HOST), int(fault.number * 40))
        self.world.net.at(4.0 + 4 * fault.number, lambda: self._make_sure(HOST))
        return True

    def quiet(self) -> None:
        """All faults stop: links mend, the frozen thaw, the dead restart."""
        net = self.world.net
        net.heal()
        for key, peer in net.peers.items():
            peer.factor = 1.0
            peer.effects_left = None
            if peer.frozen and peer.alive:
                net.thaw(key)
        for index in [HOST, *sorted(self.world.lives)]:
            self.world.restart(index)
