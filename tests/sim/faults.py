"""Faults of one seed: drawn as a list first, so that a run can be replayed and shrunk.

A fault phase in which anything may happen at any moment, then a quiet phase: everything heals,
crashed peers restart, and the swarm must converge.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from peers.protocol.messages import Refused
from tests.sim.doors import HOST, MAX_WORKERS, STRANGER, attempts, key_of
from tests.sim.world import World
from transport.frames import unpack
from transport.simnet.links import Endpoint

KINDS_OF_CLONES = ("clone", "clone_of_frozen", "clone_of_cut_off")
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
    "stranger",
    *KINDS_OF_CLONES,
)


FULL_DISK = "full_disk"
"""Of the host, which alone stores anything. It is drawn by itself: a seed keeps its other faults."""

LONG_ABSENCE = "long_absence"
"""Until the faults are over: a stage may be left with too few. In worlds whose workers may move."""

KINDS_OF_DISKS = ("all_die", "power_fails", "dies_in_save", "worker_disk_full")
"""In worlds with disks alone, beside the others."""


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


def draw_full_disks(rng: random.Random, until_s: float) -> list[Fault]:
    """In one seed of four the host's disk is full now and then."""
    if rng.random() >= 0.25:
        return []
    moments = [rng.uniform(0.5, until_s) for _ in range(rng.randint(1, 3))]
    return [Fault(at, FULL_DISK, HOST, number=rng.random()) for at in sorted(moments)]


def draw_long_absences(rng: random.Random, num_workers: int, until_s: float) -> list[Fault]:
    """Up to a third of the workers."""
    who = rng.sample(range(num_workers), rng.randint(0, num_workers // 3))
    return [Fault(rng.uniform(3.0, until_s), LONG_ABSENCE, each) for each in who]


def draw_disk_faults(rng: random.Random, num_workers: int, until_s: float) -> list[Fault]:
    """Once or twice everybody dies; the rest is drawn as other faults are."""
    kinds = [kind for kind in KINDS_OF_DISKS if rng.random() < 0.7]
    faults = [
        Fault(rng.uniform(4.0, until_s), "all_die", 0, 0, rng.random()) for _ in range(rng.choice([1, 1, 2]))
    ]
    at, rate = rng.uniform(2.0, 5.0), rng.choice([0.05, 0.2])
    while kinds and at < until_s:
        faults.append(Fault(at, rng.choice(kinds), rng.randrange(num_workers), 0, rng.random()))
        at += rng.expovariate(rate)
    return sorted(faults, key=lambda fault: fault.at_s)


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

    def _long_absence(self, fault: Fault) -> bool:
        if not self.world.alive(fault.who) or self._last_holder(fault.who):
            return False
        self.world.crash(fault.who)
        return True

    def _crash_between_effects(self, fault: Fault) -> bool:
        if not self.world.alive(fault.who) or self._last_holder(fault.who):
            return False
        process = self.world.workers[fault.who].process
        self.world.net.crash_after(process, int(fault.number * 40))
        self.world.net.at(4.0 + 6 * fault.number, lambda: self._make_sure(fault.who, process))
        return True

    def _make_sure(self, who: int, process: Endpoint) -> None:
        self.world.net.crash(process)
        self.world.restart(who)

    def _last_holder(self, who: int) -> bool:
        """Without checkpoints, a swarm that loses its last holder of the state has lost it: that is
        no fault to recover from, so two are left alive until a disk has it."""
        stage = self.world.stage_of.get(who, 0)
        if self.world.disks_with_state(stage):
            return False
        holders = []
        for index in [each for each in self.world.living() if self.world.stage_of[each] == stage]:
            member = self.world.workers[index].node.member
            replaced = (
                index in self.world.knocking | self.world.building
            )  # a clone without the state is about to take its place
            if member and member.versions.holds_state and self.world.alive(index) and not replaced:
                holders.append(index)
        return who in holders and len(holders) <= 2

    def _freeze(self, fault: Fault) -> bool:
        if not self.world.alive(fault.who):
            return False
        self._freeze_for(self.world.workers[fault.who].process, 0.2 + 8 * fault.number)
        return True

    def _freeze_for(self, process: Endpoint, seconds: float) -> None:
        def thaw() -> None:
            if process.frozen and process.alive:
                self.world.net.thaw(process)

        self.world.net.freeze(process)
        self.world.net.at(seconds, thaw)

    def _clone(self, fault: Fault) -> bool:
        """A second process with the same identity starts while the first one runs on."""
        index = fault.who
        starts = index in self.world.knocking | self.world.building
        if not self.world.alive(index) or starts or self._last_holder(index):
            return False
        self.world.start_worker(index)
        return True

    def _clone_of_frozen(self, fault: Fault) -> bool:
        """Somebody thinks that a process is dead and starts another; later the first one wakes up."""
        if not self._clone(fault):
            return False
        self._freeze_for(self.world.workers[fault.who].process, 0.2 + 8 * fault.number)
        return True

    def _clone_of_cut_off(self, fault: Fault) -> bool:
        """The same with one that the host cannot reach, but other members can."""
        if not self._clone(fault):
            return False
        net, process = self.world.net, self.world.workers[fault.who].process
        net.cut(process, key_of(HOST))
        net.at(0.2 + 8 * fault.number, lambda: net.mend(process, key_of(HOST)))
        return True

    def _stranger(self, fault: Fault) -> bool:
        """Someone without a live invite knocks in every way it can think of, and dials everyone."""

        def answered(now: float, reply: tuple[bytes, bytes] | None) -> None:
            self.world.let_in += reply is not None and not isinstance(unpack(reply[0]), Refused)

        for invite, header in attempts():
            self.world.net.knock(key_of(STRANGER), invite, key_of(HOST), header, answered)
        if not self.world.strangers:
            self.world.start_stranger()
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
        new = max([self.world.num_workers - 1, *self.world.lives]) + 1
        if new >= min(MAX_WORKERS, 2 * self.world.num_workers + 2) or new in self.world.lives:
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
        process = self.world.net.peers[key_of(HOST)]
        self.world.net.crash_after(process, int(fault.number * 40))
        self.world.net.at(4.0 + 4 * fault.number, lambda: self._make_sure(HOST, process))
        return True

    def _full_disk(self, fault: Fault) -> bool:
        """Most of the time longer than it takes until the host seems dead to others."""
        self.world.net.fill_disk(key_of(HOST))
        self.world.net.at(0.5 + 7 * fault.number, lambda: self.world.net.empty_disk(key_of(HOST)))
        return True

    # -- disks --------------------------------------------------------------------------------

    def _all_die(self, fault: Fault) -> bool:
        """Every process is killed at once, the host's too in some; power fails in others. They come back in
        any order, one of them much later."""
        if not all(map(self.world.disks_with_state, range(self.world.stages))):
            return False
        net, rng = self.world.net, random.Random(fault.number)
        everybody = sorted(self.world.lives)
        power, host_too = rng.random() < 0.3, rng.random() < 0.7
        for index in [*everybody, *([HOST] if host_too else [])]:
            for process in net.processes(key_of(index)):
                net.crash(process)
            if power and index in self.world.disks:
                self.world.disks[index].lose_power()
        late = rng.choice(everybody)
        for index in [*everybody, *([HOST] if host_too else [])]:
            after = rng.uniform(0.2, 4.0) + (rng.uniform(3.0, 12.0) if index == late else 0.0)
            net.at(after, lambda index=index: self.world.restart(index))
        return True

    def _power_fails(self, fault: Fault) -> bool:
        """Of one machine, whose disk lies in some, if it is not the only one that has the state."""
        if fault.who not in self.world.disks or not self._crash(fault):
            return False
        disk = self.world.disks[fault.who]
        others = self.world.disks_with_state(self.world.stage_of[fault.who])
        lies = fault.number < 0.2 and any(other is not disk for other in others)
        if lies:
            self.world.lied.add(disk)
        disk.lose_power(lie=lies)
        return True

    def _dies_in_save(self, fault: Fault) -> bool:
        """Killed at some byte of what it writes next."""
        disk = self.world.disks.get(fault.who)
        if disk is None or not self.world.alive(fault.who) or self._last_holder(fault.who):
            return False
        disk.kill_in = int(fault.number * 8000)
        process = self.world.workers[fault.who].process

        def make_sure() -> None:
            disk.kill_in = None
            self._make_sure(fault.who, process)

        self.world.net.at(4.0 + 6 * fault.number, make_sure)
        return True

    def _worker_disk_full(self, fault: Fault) -> bool:
        disk = self.world.disks.get(fault.who)
        if disk is None:
            return False
        room, disk.room_bytes = disk.room_bytes, int(fault.number * 20_000)

        def empty() -> None:
            disk.room_bytes = room

        self.world.net.at(1.0 + 8 * fault.number, empty)
        return True

    def quiet(self) -> None:
        """All faults stop: links mend, the frozen thaw, the dead restart, disks have room."""
        net = self.world.net
        net.heal()
        net.empty_disk(key_of(HOST))
        for disk in self.world.disks.values():
            disk.room_bytes, disk.kill_in = 1 << 40, None
        for peer in [each for key in net.peers for each in net.processes(key)]:
            peer.factor = 1.0
            peer.effects_left = None
            if peer.frozen:
                net.thaw(peer)
        for index in [HOST, *sorted(self.world.lives)]:
            self.world.restart(index)
