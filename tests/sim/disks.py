"""Disks of simulated workers, and what keeps their states there: the production store, shelf and boundaries.

A worker's disk outlives its processes. At boundaries it pins its state and writes it a while later, all files
at one instant, within which the process may die at any byte. What is confirmed to the coordinator must be
there after whatever crash (DU1), and what is loaded must be what the records made (DU2): checkers see both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diloco.checkpoints.boundaries import Boundaries
from diloco.checkpoints.manifest import FragmentEntry, Manifest, fragment_file
from diloco.checkpoints.parts import Parts, StoredState
from diloco.checkpoints.position import Position
from diloco.checkpoints.shelf import Shelf
from diloco.checkpoints.store import Content, Saved, Store, folder_of
from diloco.errors import CheckpointError
from diloco.settings import Checkpoint
from peers.protocol.application import StateBlob
from peers.protocol.commands import Command, ConfirmSaved
from peers.protocol.events import BecameActive, Restored, RoundCommitted, ShareWanted, StateFetched
from peers.protocol.held import Held
from peers.protocol.record import Record
from peers.protocol.shares import Part, share_of
from tests.sim.doors import SETTINGS, key_of
from tests.sim.trainer import VectorReplica, digests_of
from transport.digests import digest_of, tree_digest
from transport.disk import Disk

LEAST_S = 1.0
"""Between two checkpoints of one worker."""


class Damaged(Exception):
    """A checkpoint is not what its manifest says."""


@dataclass(frozen=True)
class Pinned:
    """A state as it was at one record."""

    held: Held
    serials: tuple[int, ...]
    states: tuple[bytes, ...]
    fragments: frozenset[int] | None = None
    """Those that are to be written; all by default."""
    covered: int = 0
    """As the host said."""


class SimKeeper:
    """What keeps the state of one life of a worker; see `diloco.checkpoints.keeper`, which it stands for."""

    def __init__(self, disk: Disk, replica: VectorReplica, wanted: Checkpoint) -> None:
        self._replica = replica
        self._copies = wanted.copies
        self._share: ShareWanted | None = None
        self.parts = Parts()
        self.store = Store(disk, folder_of(SETTINGS[:16]))
        self.store.begin()
        self.shelf = Shelf(disk, self.store.folder, keeps=wanted.results)
        self._keep = wanted.keep
        self._position = Position(len(replica.sizes))
        self._boundaries = Boundaries(len(replica.sizes), LEAST_S, wanted.every)
        self._saved: Manifest | None = None
        self.leads_on = wanted.results
        """Whether the swarm is to count on results of rounds after the newest checkpoint."""
        self.later: tuple[Record, ...] = ()
        """Records that lead on from what it begins with."""
        self._is_due = True
        """A state of its own or of others' was taken on: results count from the next checkpoint on."""

    def load(self) -> Held | None:
        """Put the newest whole state into the replica."""
        found = newest_on(self.store)
        self.parts = shares_on(self.store, self._replica, found[0].index if found else -1)
        if found is None:
            self._saved = next((each.manifest for each in self.store.newest()), None)
            return None
        manifest, states = found
        self._replica.states = [np.frombuffer(state, dtype=np.float32).copy() for state in states]
        checks = tuple(self._replica.check(fragment) for fragment in range(len(states)))
        self._saved, held = manifest, replace(manifest.held(), checks=checks)
        self._replica.bases = list(held.versions)
        self._position = Position(len(states), held)
        self._position.begin_after(tuple(each.serial for each in manifest.fragments))
        self._is_due = False
        self.later = self.shelf.records_after(held.head)
        return held

    def hear(self, now: float, event: object, answers: Sequence[Command]) -> Pinned | None:
        """An event and what was answered; what is to be written now, if anything."""
        for command in answers:
            self._position.answer(command)
        self._position.event(event)
        if isinstance(event, RoundCommitted | Restored):
            self.shelf.note(event.record)
        due = False
        match event:
            case ShareWanted():
                self._share = event
            case RoundCommitted() if self._share is not None and self._share.index <= event.record.index:
                wanted, self._share = self._share, None
                if event.record.index == wanted.index:
                    return self._pin_share(now, event.record, wanted)
            case _ if self._copies:
                return None
            case StateFetched():
                self._is_due = True
            case BecameActive():
                due = self._is_due
            case RoundCommitted() if not event.behind:
                due = self._boundaries.is_due(now, event.record.index) or self._is_due
        held = self._position.held
        if not due or held is None or self._boundaries.is_busy:
            return None
        self._is_due = False
        self._boundaries.begin(now, held.index)
        return self._pin(held)

    def _pin_share(self, now: float, record: Record, wanted: ShareWanted) -> Pinned | None:
        held = self._position.held
        if held is None or held.head != record.hash() or self._boundaries.is_busy:
            return None
        me, count = key_of(self._replica.index), len(self._replica.sizes)
        mine = share_of(held.head, me, record.members, wanted.copies, count)
        self._boundaries.begin(now, held.index)
        return replace(self._pin(held), fragments=mine, covered=wanted.covered)

    def _pin(self, held: Held) -> Pinned:
        digests = tuple(self._replica.digest(fragment) for fragment in range(len(self._replica.sizes)))
        states = tuple(s.tobytes() for s in self._replica.states)
        return Pinned(replace(held, digests=digests), self._position.serials, states)

    def poll(self) -> ConfirmSaved | None:
        """What is to be told of results that the disk did not take."""
        if not self.leads_on or self._saved is None or self._shelf_leads_on(self._saved):
            return None
        self.leads_on = False
        return self._told(self._saved)

    def write(self, now: float, pinned: Pinned) -> ConfirmSaved | None:
        """Write it; what is to be told of that. The process may die in it."""
        self._boundaries.end(now)
        try:
            saved = self.store.write(
                pinned.held.head, pinned.held.index, contents(pinned), lambda f: manifest_of(pinned, f)
            )
            oldest = self._prune(pinned)
        except OSError:
            self._is_due |= self._saved is None
            return None
        if oldest is not None:
            self.shelf.prune(oldest.serial_floor)
        self._saved = saved.manifest
        self.leads_on = self._shelf_leads_on(saved.manifest)
        return self._told(saved.manifest)

    def _prune(self, pinned: Pinned) -> Manifest | None:
        if self._copies:
            return self.store.prune_shares(self._keep, pinned.covered)
        return self.store.prune(self._keep)

    def _told(self, manifest: Manifest) -> ConfirmSaved:
        fragments = None if manifest.is_whole else manifest.here
        return ConfirmSaved(manifest.held(), keeps=self.leads_on, fragments=fragments)

    def _shelf_leads_on(self, newest: Manifest) -> bool:
        return self.shelf.leads_on_from(newest.serial_floor)


def contents(pinned: Pinned) -> list[Content]:
    def pieces(state: bytes) -> Iterator[bytes]:
        for start in range(0, len(state), 500):
            yield state[start : start + 500]

    return [
        Content(fragment_file(fragment), len(state), lambda state=state: pieces(state))  # type: ignore[misc]
        for fragment, state in enumerate(pinned.states)
        if pinned.fragments is None or fragment in pinned.fragments
    ]


def manifest_of(pinned: Pinned, files: tuple) -> Manifest:  # type: ignore[type-arg]
    held = pinned.held
    return Manifest(
        written_by="sim",
        written_at=0.0,
        run=SETTINGS[:16].hex(),
        settings="",
        replica=held.steps is not None,
        index=held.place,
        head=held.head.hex(),
        record=held.record.hex(),
        fragments=tuple(
            FragmentEntry(version=v.hex(), digest=d.hex(), serial=s, count=0, vectors=(), projection=0)
            for v, d, s in zip(held.versions, held.digests, pinned.serials, strict=True)
        ),
        tensors=(),
        own=None,
        files=files,
        previous=None,
    )


def newest_on(store: Store) -> tuple[Manifest, list[bytes]] | None:
    """The newest whole checkpoint whose files are what its manifest says, and its states."""
    for saved in store.newest():
        if not saved.manifest.is_whole:
            continue
        try:
            return saved.manifest, states_of(store, saved)
        except (Damaged, CheckpointError, OSError):
            continue
    return None


def shares_on(store: Store, replica: VectorReplica, after: int) -> Parts:
    """The shares of later states than that of the index ``after``, the newest first."""
    parts, piece_bytes = Parts(), replica.limits.payload_bytes
    for saved in store.newest():
        manifest = saved.manifest
        if manifest.is_whole or manifest.index <= after:
            continue
        states: dict[int, StateBlob] = {}
        for fragment in sorted(manifest.here):
            path = f"{saved.path}/{fragment_file(fragment)}"
            data = store.disk.read(path)
            if digest_of(data).hex() == manifest.file(fragment_file(fragment)).digest:
                digests = digests_of(np.frombuffer(data, dtype=np.float32), piece_bytes)
                states[fragment] = StoredState(
                    store.disk, path, 0, len(data), digests, lambda at, size: b"", piece_bytes
                )
        parts.add(Part(manifest.held(), frozenset(states)), states)
    return parts


def states_of(store: Store, saved: Saved) -> list[bytes]:
    states = [store.disk.read(f"{saved.path}/{each.name}") for each in saved.manifest.files]
    for each, state in zip(saved.manifest.files, states, strict=True):
        if digest_of(state).hex() != each.digest:
            raise Damaged(each.name)
    return states


def has_result(shelf: Shelf, result: bytes) -> bool:
    """Whether a shelf has a result that is what it is named for."""
    found = shelf.find(result)
    return found is not None and tree_digest(found.digests) == result
