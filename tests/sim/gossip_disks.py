"""What keeps the replicas of simulated workers that gossip: the production store, position and boundaries.

It stands for `diloco.checkpoints.keeper`, as `tests.sim.disks` does where there are rounds. Of swaps no
results are kept: what was swapped since the newest checkpoint is lost with its process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diloco.checkpoints.boundaries import Boundaries
from diloco.checkpoints.position import Position
from diloco.checkpoints.store import Store, folder_of
from peers.protocol.commands import Command, ConfirmMoved, ConfirmSaved
from peers.protocol.events import BecameActive, StateFetched
from peers.protocol.held import Held
from tests.sim.disks import LEAST_S, Pinned, contents, manifest_of, newest_on
from tests.sim.doors import SETTINGS
from tests.sim.gossip_world import HOST, Gossiper, GossipReplica, GossipWorld, key_of
from tests.sim.violation import Violation
from transport.disk import Disk
from transport.simnet.disk import Killed, SimDisk


class ReplicaKeeper:
    """Of one life of one worker."""

    def __init__(self, disk: Disk, replica: GossipReplica) -> None:
        self._replica = replica
        self.store = Store(disk, folder_of(SETTINGS[:16]))
        self.store.begin()
        self._position = Position(1)
        self._boundaries = Boundaries(1, LEAST_S)
        self._is_due = True
        """A first replica was taken on, or one of others'."""

    def load(self) -> Held | None:
        """Put the newest whole replica in place."""
        found = newest_on(self.store)
        if found is None:
            return None
        manifest, (state,) = found
        self._replica.state = np.frombuffer(state, dtype=np.float32).copy()
        self._replica.steps = manifest.held().place
        held = replace(manifest.held(), checks=(self._replica.check(0),))
        self._position = Position(1, held)
        self._is_due = False
        return held

    def hear(self, now: float, event: object, answers: Sequence[Command]) -> Pinned | None:
        """An event and what was answered; what is to be written now, if anything."""
        for command in answers:
            self._position.answer(command)
        self._position.event(event)
        due = isinstance(event, BecameActive) and self._is_due
        self._is_due |= isinstance(event, StateFetched)
        if any(isinstance(command, ConfirmMoved) for command in answers):
            due = self._boundaries.is_due(now, self._replica.steps)
        held = self._position.held
        if not due or held is None or self._boundaries.is_busy:
            return None
        self._is_due = False
        held = replace(held, steps=self._replica.steps, digests=(self._replica.digest(0),))
        self._boundaries.begin(now, held.place)
        return Pinned(held, (0,), (self._replica.state.tobytes(),))

    def write(self, now: float, pinned: Pinned) -> ConfirmSaved | None:
        """Write it; what is to be told of that. The process may die in it."""
        held = pinned.held
        try:
            self.store.write(
                held.head, held.place, contents(pinned), lambda files: manifest_of(pinned, files)
            )
            self.store.prune(3, held.place)
        except OSError:
            return None
        finally:
            self._boundaries.end(now)
        return ConfirmSaved(held, keeps=False)


class DurableGossip(GossipWorld):
    """Workers with disks. What one confirmed to have saved must be there at its next start (DU1), whatever
    came between; a disk that lost power may have lost what was not confirmed."""

    def __init__(self, seed: int, num_workers: int, **fields: Any) -> None:
        self.disks: dict[int, SimDisk] = {}
        self.keepers: dict[int, ReplicaKeeper] = {}
        self.confirmed: dict[int, Held] = {}
        """By worker, what it said last to have saved."""
        super().__init__(seed, num_workers, **fields)
        self.writes = self.net.stream("writes")

    def begin_with(self, index: int, replica: GossipReplica) -> Held | None:
        disk = self.disks.setdefault(index, SimDisk(self.net.stream(f"disk {index}")))
        keeper = self.keepers[index] = ReplicaKeeper(disk, replica)
        held, least = keeper.load(), self.confirmed.get(index)
        if least is not None and (held is None or held.place < least.place):
            raise Violation(
                "DU1", f"worker {index} confirmed outer step {least.place}, and its disk has {held}"
            )
        if held is not None and replica.digest(0) != held.digests[0]:
            raise Violation("DU2", f"worker {index} loads another replica than it saved")
        return held

    def heard(self, worker: Gossiper, event: object, answers: list[Command]) -> None:
        pinned = self.keepers[worker.index].hear(self.net.now, event, answers)
        if pinned is not None:
            life = self.lives[worker.index]
            self.net.at(self.writes.choice([0.0, 0.2, 2.0]), lambda: self._write(worker, life, pinned))

    def _write(self, worker: Gossiper, life: int, pinned: Pinned) -> None:
        endpoint = self.net.peers[key_of(worker.index)]
        if self.lives[worker.index] != life or not endpoint.alive:
            return
        if endpoint.frozen:
            self.net.at(0.1, lambda: self._write(worker, life, pinned))
            return
        try:
            told = self.keepers[worker.index].write(self.net.now, pinned)
        except Killed:
            self.net.crash(endpoint)
            return
        if told is not None:
            self.confirmed[worker.index] = told.held
            self._run(worker, [told])

    # -- everybody dies -----------------------------------------------------------------------

    def all_die(self, *, power: bool = False) -> None:
        """SIGKILL at one moment, or the power fails everywhere."""
        for key in [HOST, *map(key_of, self.workers)]:
            self.net.crash(key)
        for disk in self.disks.values():
            disk.kill_in = None
            if power:
                disk.lose_power()
