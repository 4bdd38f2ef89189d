"""Checkers of what outlives every process: they look at the disks themselves, and at what was said of them.

DU1: what a worker confirmed to have saved is on its disk after whatever crash. DU2: what it loads is what the
records made. DU3: no commit is given up to which the disks lead, all of them together, of workers that may
come back; and while a worker says that results lead on from its checkpoint, they do. DU32: a disk keeps what
the settings say. Disks that lied are left out of DU1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blake3 import blake3

from diloco.checkpoints.shelf import Shelf
from diloco.checkpoints.store import Store, folder_of
from peers.coordinator.journal import StateSaved
from peers.protocol.commands import ConfirmSaved
from peers.protocol.events import BecameActive, RoundCommitted
from peers.protocol.record import Record, record_in
from tests.sim.disks import has_result, newest_on
from tests.sim.doors import SETTINGS, key_of
from tests.sim.violation import Violation
from tests.sim.world import Loaded, Worker, World
from transport.simnet.disk import SimDisk


def drawn(head: bytes, fragment: int, members: tuple[bytes, ...], copies: int) -> set[bytes]:
    """Who is to write a fragment: the naive twin of `peers.protocol.shares.holders`."""
    hashes = {blake3(head + fragment.to_bytes(4, "big") + member).digest(): member for member in members}
    return {hashes[each] for each in sorted(hashes)[:copies]}


@dataclass
class Life:
    """What one process of a worker said and did."""

    saved_index: int = -1
    """Of its newest checkpoint."""
    leads_on: bool = False
    """It says that it keeps all results since."""
    applied: list[Record] = field(default_factory=list)
    may_save_at: list[int] = field(default_factory=list)
    """Commits at which it came to the run's state: then or later one checkpoint may be of any commit."""


@dataclass
class Durable:
    """What was said of the disks of one world, and one stage's workers."""

    world: World
    course: int = 0
    put_out: set[int] = field(default_factory=set)
    """Workers that may not come back."""
    noted: dict[int, StateSaved] = field(default_factory=dict)
    """By worker: what its disk has, as the coordinator knows."""
    covered: list[bytes] = field(default_factory=list)
    """Heads of states of which the coordinator said that all fragments are on disks."""
    num_given_up: int = 0
    """Commits that were undone because no disk led to them."""
    _confirmed: dict[SimDisk, int] = field(default_factory=dict)
    _lives: dict[tuple[int, int], Life] = field(default_factory=dict)

    def note(self, worker: Worker, seen: object) -> None:
        if worker.keeper is None:
            return
        life = self._lives.setdefault((worker.index, worker.life), Life())
        match seen:
            case ConfirmSaved():
                self._saved(worker, life, seen)
            case BecameActive():
                life.may_save_at.append(seen.index)
            case RoundCommitted():
                life.applied.append(seen.record)
            case Loaded(held):
                life.leads_on = held is not None and worker.keeper.leads_on
                life.saved_index = held.index if held is not None else -1
                self._loaded(worker, seen)

    def _saved(self, worker: Worker, life: Life, said: ConfirmSaved) -> None:
        is_new, life.saved_index = said.held.index != life.saved_index, said.held.index
        life.leads_on = said.keeps
        self._confirmed[self._disk_of(worker)] = said.held.index
        self._check_results(worker, life)
        if is_new:
            self._check_settings(worker, life)

    # -- DU32 ---------------------------------------------------------------------------------

    def _check_settings(self, worker: Worker, life: Life) -> None:
        wanted, keeper = self.world.checkpoint, worker.keeper
        assert keeper is not None
        num_kept = len(list(keeper.store.newest()))
        if num_kept > wanted.keep + bool(wanted.copies):
            raise Violation("DU32", f"worker {worker.index} keeps {num_kept} checkpoints, not {wanted.keep}")
        if len(keeper.shelf) and not wanted.results:
            raise Violation("DU32", f"worker {worker.index} keeps results, which nobody wants")
        if wanted.copies:
            self._check_share(worker)
            return
        if life.saved_index % (wanted.every * len(self.world.sizes)) == 0:
            return
        because = next((index for index in life.may_save_at if index <= life.saved_index), None)
        if because is None:
            raise Violation("DU32", f"worker {worker.index} wrote a checkpoint of commit {life.saved_index}")
        life.may_save_at.remove(because)  # it had just come to the run's state

    def _check_share(self, worker: Worker) -> None:
        """A worker writes the fragments that fall to it, of a commit that was named, and no others."""
        assert worker.keeper is not None
        manifest = next(worker.keeper.store.newest()).manifest
        record = record_in(bytes.fromhex(manifest.record))
        count, copies = len(self.world.sizes), self.world.checkpoint.copies
        draws = {f: drawn(record.hash(), f, record.members, copies) for f in range(count)}
        mine = {f for f, those in draws.items() if worker.key in those}
        if manifest.here != mine:
            raise Violation("DU32", f"worker {worker.index} wrote {manifest.here}, and {mine} fell to it")

    def _check_covered(self) -> None:
        """All fragments of the newest state that is said to be covered are on disks."""
        if not self.covered or self.world.lied:
            return
        head, count = self.covered[-1], len(self.world.sizes)
        have = set[int]()
        for disk in self.world.disks.values():
            for saved in Store(disk, folder_of(SETTINGS[:16])).newest():
                have |= saved.manifest.here if saved.manifest.head == head.hex() else set()
        if len(have) < count:
            raise Violation("DU3", f"of a covered state only fragments {sorted(have)} are on disks")

    def _disk_of(self, worker: Worker) -> SimDisk:
        assert worker.keeper is not None
        found = worker.keeper.store.disk
        assert isinstance(found, SimDisk)
        return found

    def _loaded(self, worker: Worker, loaded: Loaded) -> None:
        self.world.seen["resumed"] += loaded.held is not None
        disk = self._disk_of(worker)
        least = self._confirmed.get(disk, -1)
        assert worker.keeper is not None
        newest = next(worker.keeper.store.newest(), None) if self.world.checkpoint.copies else None
        found = max(loaded.held.index if loaded.held else -1, newest.manifest.index if newest else -1)
        self.world.seen["shares"] += newest is not None and loaded.held is None
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
            kept = keeper.shelf.leads_on_from(record.serial - 1)
            if held and kept and not has_result(keeper.shelf, record.result):
                raise Violation("DU3", f"worker {index} holds commit {record.index}, and its disk does not")

    def sweep(self) -> None:
        """Whoever says that results lead on from its checkpoint has all of them."""
        self._check_covered()
        for worker in self.world.processes():
            if worker.keeper is not None and worker.stage == self.course:
                self._check_results(worker, self._lives[worker.index, worker.life])

    def _check_results(self, worker: Worker, life: Life) -> None:
        assert worker.keeper is not None
        for record in life.applied if life.leads_on else ():
            if record.index > life.saved_index and not has_result(worker.keeper.shelf, record.result):
                raise Violation(
                    "DU3",
                    f"results lead on from commit {life.saved_index}, says worker {worker.index}, and that of"
                    f" commit {record.index} is missing",
                )

    def went_back(self, standing: list[Record], root: bytes, to_index: int) -> None:
        """A restoring record goes back to the commit of that index, of those that stood until now."""
        reach = self.reach(standing, root)
        last = standing[-1].index if standing else 0
        if reach > to_index and to_index != self.world.resume:  # that is its owner's word
            raise Violation("DU3", f"commit {to_index} was restored, and disks lead to {reach} of {last}")
        self.num_given_up += sum(record.index > to_index for record in standing)

    def reach(self, standing: list[Record], root: bytes) -> int:
        """The index to which the disks of all who may come back lead together; -1 for nothing."""
        mine = [index for index in self.world.disks if self.world.stage_of[index] == self.course]
        may_come = [index for index in mine if index not in self.put_out]
        disks = [self.world.disks[index] for index in may_come]
        stores = [Store(disk, folder_of(SETTINGS[:16])) for disk in disks]
        shelves = [Shelf(disk, store.folder) for disk, store in zip(disks, stores, strict=True)]
        heads = {root: 0} | {record.hash(): record.index for record in standing}
        saved = []
        for index, store in zip(may_come, stores, strict=True):
            found = newest_on(store)
            noted = self.noted.get(index)
            known_of = self.world.alive(index) or (found and noted and found[0].index <= noted.index)
            if found is not None and known_of:
                saved.append(found[0].held().head)
        saved += self._shared(may_come, stores) if self.world.checkpoint.copies else []
        reach = max((heads[head] for head in saved if head in heads), default=-1)
        for record in standing if reach >= 0 else ():
            if record.index <= reach:
                continue
            known = [
                shelf
                for index, shelf in zip(may_come, shelves, strict=True)
                if self.world.alive(index) or self._is_known_to_keep(index, record)
            ]
            if not record.restores and not any(has_result(shelf, record.result) for shelf in known):
                break
            reach = record.index
        return reach

    def _shared(self, may_come: list[int], stores: list[Store]) -> list[bytes]:
        """Heads of states of which those disks have all fragments together. Of one that is away, or begins
        and has not yet told what it has, that counts for what the coordinator knows to be covered."""
        have: dict[bytes, set[int]] = {}
        for index, store in zip(may_come, stores, strict=True):
            for saved in store.newest():
                head = bytes.fromhex(saved.manifest.head)
                if self._has_told(index) or head in self.covered:
                    have.setdefault(head, set()).update(saved.manifest.here)
        return [head for head, fragments in have.items() if len(fragments) == len(self.world.sizes)]

    def _has_told(self, index: int) -> bool:
        """Whether a worker is in, and has told with that which shares it has."""
        coordinator = self.world.host.coordinator
        entry = coordinator.roster.entries.get(key_of(index)) if coordinator else None
        return self.world.alive(index) and entry is not None and entry.entered

    def _is_known_to_keep(self, index: int, record: Record) -> bool:
        """Of one that only followed nobody knows that its disk has the result, nor of one that said that
        results are missing."""
        noted = self.noted.get(index)
        return key_of(index) in record.members and not (noted and not noted.keeps)
