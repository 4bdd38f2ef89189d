"""Checkers of what outlives every process: they look at the disks themselves, and at what was said of them.

DU1: what a worker confirmed to have saved is on its disk after whatever crash. DU2: what it loads is what the
records made. DU3: no commit is given up to which the disks lead, all of them together, of workers that may
come back. Disks that lied are left out of DU1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from diloco.checkpoints.shelf import Shelf
from diloco.checkpoints.store import Store, folder_of
from peers.protocol.commands import ConfirmSaved
from peers.protocol.record import Record
from tests.sim.disks import has_result, newest_on
from tests.sim.doors import SETTINGS, key_of
from tests.sim.violation import Violation
from tests.sim.world import Loaded, Worker, World
from transport.simnet.disk import SimDisk


@dataclass
class Durable:
    """What was said of the disks of one world."""

    world: World
    put_out: set[int] = field(default_factory=set)
    """Workers that may not come back."""
    noted: dict[int, int] = field(default_factory=dict)
    """By worker: the newest commit that its disk has, as the coordinator knows."""
    num_given_up: int = 0
    """Commits that were undone because no disk led to them."""
    _confirmed: dict[SimDisk, int] = field(default_factory=dict)

    def note(self, worker: Worker, seen: object) -> None:
        match seen:
            case ConfirmSaved(held, keeps=True):
                self._confirmed[self._disk_of(worker)] = held.index
            case Loaded():
                self._loaded(worker, seen)

    def _disk_of(self, worker: Worker) -> SimDisk:
        assert worker.keeper is not None
        found = worker.keeper.store.disk
        assert isinstance(found, SimDisk)
        return found

    def _loaded(self, worker: Worker, loaded: Loaded) -> None:
        self.world.seen["resumed"] += loaded.held is not None
        disk = self._disk_of(worker)
        least = self._confirmed.get(disk, -1)
        found = loaded.held.index if loaded.held else -1
        if found < least and disk not in self.world.lied:
            raise Violation(
                "DU1", f"worker {worker.index} confirmed commit {least}, and its disk has {found}"
            )

    def root_changed(self) -> None:
        """Another first state took the place of one: what was saved of that is of no use to anybody."""
        self._confirmed.clear()

    # -- DU3 ----------------------------------------------------------------------------------

    def committed(self, record: Record, lives: dict[int, int]) -> None:
        """Whoever contributed and said that it holds the result has it on its disk, unless that was full."""
        for index, life in lives.items():
            worker = self.world.workers[index]
            member, keeper = worker.node.member, worker.keeper
            if worker.life != life or not worker.process.alive or member is None or keeper is None:
                continue
            held = member.exchanges.find_result(record.serial, record.result) is not None
            keeps = member.keeps and not keeper.has_failed
            if held and keeps and not has_result(keeper.shelf, record.result):
                raise Violation("DU3", f"worker {index} holds commit {record.index}, and its disk does not")

    def went_back(self, standing: list[Record], root: bytes, to_index: int) -> None:
        """A restoring record goes back to the commit of that index, of those that stood until now."""
        reach = self.reach(standing, root)
        last = standing[-1].index if standing else 0
        if reach > to_index and to_index != self.world.resume:  # that is its owner's word
            raise Violation("DU3", f"commit {to_index} was restored, and disks lead to {reach} of {last}")
        self.num_given_up += sum(record.index > to_index for record in standing)

    def reach(self, standing: list[Record], root: bytes) -> int:
        """The index to which the disks of all who may come back lead together; -1 for nothing."""
        may_come = [index for index in self.world.disks if index not in self.put_out]
        disks = [self.world.disks[index] for index in may_come]
        stores = [Store(disk, folder_of(SETTINGS[:16])) for disk in disks]
        shelves = [Shelf(disk, store.folder) for disk, store in zip(disks, stores, strict=True)]
        heads = {root: 0} | {record.hash(): record.index for record in standing}
        saved = []
        for index, store in zip(may_come, stores, strict=True):
            found = newest_on(store)
            known_of = self.world.alive(index) or (found and found[0].index <= self.noted.get(index, -1))
            if found is not None and known_of:
                saved.append(found[0].held().head)
        reach = max((heads[head] for head in saved if head in heads), default=-1)
        for record in standing if reach >= 0 else ():
            if record.index <= reach:
                continue
            # Of one that is away and only followed nobody knows that its disk has the result.
            known = [
                shelf
                for index, shelf in zip(may_come, shelves, strict=True)
                if key_of(index) in record.members or self.world.alive(index)
            ]
            if not record.restores and not any(has_result(shelf, record.result) for shelf in known):
                break
            reach = record.index
        return reach
