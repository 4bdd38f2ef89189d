"""A worker's checkpoints: what it begins with, when it writes, and what it says of that.

Glue on the training thread: `position` knows what is held, `boundaries` when to write, `writer` does so
beside the training, `store` and `shelf` own the files. A disk that fails costs checkpoints and no training:
that is told once, until one is written again. Where a run gossips the state is this worker's own replica, by
its outer steps, and no results lead on from it. Where workers share the state out, the host names commits of
which each writes its share, and says what was covered since, so that older shares may go.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diloco.checkpoints.boundaries import Boundaries
from diloco.checkpoints.complaints import Complaints
from diloco.checkpoints.fragment_files import require_fit
from diloco.checkpoints.loading import load_newest
from diloco.checkpoints.manifest import FileEntry, Manifest, OwnEntry, unit_of
from diloco.checkpoints.own import Own
from diloco.checkpoints.parts import Parts
from diloco.checkpoints.position import Position
from diloco.checkpoints.share_files import read_parts
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.shelf import Shelf
from diloco.checkpoints.store import Content, Saved, Store, folder_of
from diloco.checkpoints.writer import Writer
from diloco.errors import CheckpointError, StateError
from diloco.outer.replica import TensorReplica
from diloco.settings import Checkpoint
from peers.protocol.commands import BeginSave, Command, ConfirmLoaded, ConfirmMoved, ConfirmSaved
from peers.protocol.events import (
    BecameActive,
    CheckpointFailed,
    CheckpointRestored,
    CheckpointWritten,
    Restored,
    RoundCommitted,
    SaveWanted,
    ShareWanted,
    StateFetched,
)
from peers.protocol.held import Held
from peers.protocol.record import Record
from peers.protocol.shares import share_of
from transport.disk import Disk

_LOG = logging.getLogger("diloco")


LEAST_S = 10.0
"""Seconds between two checkpoints at the least."""
_MAX_SHARE = 0.01
"""Share of the time that training may stand still for them."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a keeper asks of the worker whose state it keeps."""

    command: Callable[[Command], None]
    """Carry out a command on the member."""
    tell: Callable[[object], None]
    """Hand an event on."""


@dataclass(frozen=True, slots=True)
class _Pinned:
    """What is to be written."""

    shared: SharedState
    covered: int | None
    """Index of the newest state of which all fragments are on disks, as the host said with that commit."""


class Keeper:
    """Keeps the state of one worker of the run ``run`` on ``disk``."""

    def __init__(
        self,
        disk: Disk,
        run: bytes,
        settings: Callable[[], str],
        replica: TensorReplica,
        hooks: Hooks,
        own: Own,
        *,
        wanted: Checkpoint | None = None,
        least_s: float = LEAST_S,
        me: bytes = b"",
        stage: tuple[int, int] = (0, 1),
    ) -> None:
        """``me`` is the worker's key, by which shares are drawn; ``wanted`` is what the run's settings say of
        checkpoints; see `follow`. ``stage``, of so many, is what ``replica`` is of the run's model."""
        self._stage = stage
        self._run, self._me = run, me
        self._terms = wanted = wanted or Checkpoint()
        self._settings = settings
        self._replica = replica
        self._hooks = hooks
        self._own = own
        folder = folder_of(run)
        self._store = Store(disk, folder)
        self.shelf = Shelf(disk, folder, keeps=wanted.results)
        """Results of rounds; its `keep` and `find` are for the network's thread."""
        self.leads_on = wanted.results and not replica.outer.method.gossips
        """Whether the swarm is to count on results of rounds after the newest checkpoint."""
        self.later: tuple[Record, ...] = ()
        """Records that lead on from what it begins with."""
        self.writer: Writer[Saved] = Writer()
        self.blocked_s = 0.0
        """Seconds for which the training thread took copies, by its own clock."""
        self._gossips = replica.outer.method.gossips
        self._unit = unit_of(gossips=self._gossips)
        self._position = Position(replica.num_fragments)
        num_trained = replica.num_fragments - (replica.buffers is not None)
        self._boundaries = Boundaries(num_trained, least_s, wanted.every)
        self._saved: Saved | None = None
        """The newest."""
        self._began_s = 0.0
        self._complaints = Complaints()
        self._wanted: int | None = None
        """The run's owner wants a checkpoint of that commit or a later one."""
        self._due = False
        self._share: ShareWanted | None = None
        """The host has named a commit of which this worker writes its share."""
        self._pinned: _Pinned | None = None
        """That share, as it was behind the commit."""
        self.parts = Parts()
        """Shares that this worker began with; for the network's thread."""
        self._fetched = False
        """The state is of others: no results lead to it from the newest checkpoint."""
        self._steps: int | None = None
        """Gossip: outer steps of the replica that is held; None before there is one."""

    # -- the beginning ------------------------------------------------------------------------

    def begin(self, at_most: int | None = None) -> Held | None:
        """Begin with the newest checkpoint, or that of ``at_most``, as `load_newest` says; what the member
        enters with. Raises `CheckpointError`."""
        saved = load_newest(self._store, self._replica, at_most, self._stage)
        self._begin_with_shares(saved, at_most)
        if saved is None:
            return None
        held = self._begin_with(saved)
        floor = saved.manifest.serial_floor
        self.later = self.shelf.records_after(held.head, floor) if at_most is None else ()
        return held

    def _begin_with_shares(self, whole: Saved | None, at_most: int | None) -> None:
        """Of later states than the ``whole`` one this disk may have shares. Without a whole one what is the
        worker's own is taken up from the newest, and the state comes from others."""
        after = whole.manifest.index if whole is not None else -1
        shares = [
            each
            for each in self._store.newest()
            if not each.manifest.is_whole
            and after < each.manifest.index
            and (at_most is None or each.manifest.index <= at_most)
        ]
        for each in shares:
            each.manifest.require_stage(*self._stage, each.path)
            require_fit(each.manifest, self._replica)
        self.parts = read_parts(self._store.disk, shares, self._replica)
        if whole is None and shares:
            self._saved = shares[0]
            self._take_up_own(next((s for s in shares if s.manifest.own is not None), shares[0]))
            _LOG.warning(
                "this worker's disk has shares of the run's state, %s: the rest comes from others",
                ", ".join(f"{_shown(s.manifest.here)} of commit {s.manifest.index}" for s in shares),
            )

    def _begin_with(self, saved: Saved) -> Held:
        """Its shared state is loaded: so is the rest."""
        manifest = saved.manifest
        every, found = range(self._replica.num_fragments), manifest.held()
        held = replace(found, checks=tuple(self._replica.check(fragment) for fragment in every))
        self._saved = saved
        self._position = Position(self._replica.num_fragments, held)
        self._position.begin_after(tuple(each.serial for each in manifest.fragments))
        step = self._take_up_own(saved)
        self._hooks.tell(CheckpointRestored(held.place, held.head, saved.path, step, self._unit))
        self._steps = held.steps
        return held

    def _take_up_own(self, saved: Saved) -> int | None:
        if saved.manifest.own is None:
            return None
        try:
            self._own.take_up(self._store.disk, saved)
        except CheckpointError as error:
            _LOG.warning("%s; this worker begins anew with all that is its own", error)
            return None
        return saved.manifest.own.step

    # -- while it trains ----------------------------------------------------------------------

    def follow(self, wanted: Checkpoint) -> None:
        """The run's settings say something else of checkpoints from now on."""
        self._terms, self.shelf.keeps = wanted, wanted.results
        self._boundaries.follow(wanted.every)

    def hear(self, now: float, event: object, answers: Sequence[Command]) -> None:
        """An event of the member, and what the worker answered."""
        for command in answers:
            self._position.answer(command)
        self._position.event(event)
        if isinstance(event, RoundCommitted | Restored):
            self.shelf.note(event.record)
        match event:
            case SaveWanted():
                self._wanted = event.index
            case ShareWanted():
                self._share = event
            case RoundCommitted() if self._share is not None:
                self._pin_share(event.record, self._share)
            case StateFetched():
                self._fetched = True
                if self._gossips and any(isinstance(command, ConfirmLoaded) for command in answers):
                    self._say_what_was_fetched()
            case BecameActive() if self._terms.copies:
                self._fetched = False
            case BecameActive() if self._fetched or (self._saved is None and not self.writer.is_busy):
                self._due, self._fetched = True, False  # so that results count from here on
            case RoundCommitted() if self._terms.copies:
                pass  # the host says when
            case RoundCommitted() if not event.behind and self._boundaries.is_due(now, event.record.index):
                self._due = True
        if any(isinstance(command, ConfirmMoved) for command in answers):
            self._steps = self._replica.count(0)
            self._due |= self._boundaries.is_due(now, self._steps)
        self.poll(now)

    def _say_what_was_fetched(self) -> None:
        """In place of a replica of one's own, if there was one."""
        before, self._steps = self._steps, self._replica.count(0)
        if before is not None:
            _LOG.warning(
                "the others are far ahead of this worker's replica of outer step %d: it goes on from a copy "
                "of another one's, of outer step %d, with its own inner optimizer and data",
                before,
                self._steps,
            )

    def _pin_share(self, record: Record, wanted: ShareWanted) -> None:
        """The commit that the host named is applied, if it is that one: others pin the same state."""
        if record.index >= wanted.index:
            self._share = None
        held = self._held
        if record.index != wanted.index or held is None or held.head != record.hash() or self._pinned:
            return
        count = self._replica.num_fragments
        mine = share_of(held.head, self._me, record.members, wanted.copies, count)
        shared = SharedState.pin(self._replica, held, self._position.serials, mine)
        self._pinned = _Pinned(shared, wanted.covered)

    def between_steps(self, now: float) -> None:
        """All of the worker is as it is between two inner steps: take it, if that is due."""
        if self._pinned is not None and not self.writer.is_busy:
            pinned, self._pinned = self._pinned, None
            self._begin_write(now, pinned)
        if self._due and not self.writer.is_busy:
            self._due = False
            self._begin_write(now, self._whole())

    def poll(self, now: float) -> None:
        """Say what became of a checkpoint that was being written."""
        outcome = self.writer.take()
        if outcome is not None:
            self.end_write(now, outcome)
        self._note_what_is_wanted()
        if self.leads_on and self._saved is not None and not self._shelf_leads_on(self._saved.manifest):
            self.leads_on = False
            self._say_saved(self._saved.manifest)
        if self.shelf.error is not None and self.shelf.keeps and not self.leads_on:
            lost = "should all workers end, commits since the newest checkpoint are lost"
            self._complaints.fails("results", f"results are not kept: {self.shelf.error}; {lost}")

    def _shelf_leads_on(self, newest: Manifest) -> bool:
        return not self._gossips and self.shelf.leads_on_from(newest.serial_floor)

    def _note_what_is_wanted(self) -> None:
        held = self._held
        if self._wanted is None or held is None or held.place < self._wanted or self.writer.is_busy:
            return
        self._wanted = None
        self._due |= not self._is_saved(held)

    def close(self, now: float) -> None:
        """Training is over: write what is held now, if it is not on the disk yet."""
        self._finish(now)
        if self._pinned is not None:
            pinned, self._pinned = self._pinned, None
            self._begin_write(now, pinned, is_over=True)
            self._finish(now)
        held, saved = self._held, self._saved
        if held is None:
            return
        if saved and self._is_saved(held) and self._entry in (None, saved.manifest.own):
            return
        self._begin_write(now, self._whole(), is_over=True)
        self._finish(now)

    def _finish(self, now: float) -> None:
        outcome = self.writer.finish()
        if outcome is not None:
            self.end_write(now, outcome, is_over=True)

    # -- inside -------------------------------------------------------------------------------

    @property
    def _held(self) -> Held | None:
        """What is held now; None while that is nothing whole."""
        held = self._position.held
        return replace(held, steps=self._replica.count(0)) if held is not None and self._gossips else held

    def _is_saved(self, held: Held) -> bool:
        manifest = self._saved.manifest if self._saved is not None else None
        return manifest is not None and (manifest.head, manifest.index) == (held.head.hex(), held.place)

    def _whole(self) -> _Pinned | None:
        """What is held now. Where workers share the state out nobody else is to write this one, and who
        leaves keeps what is its own alone."""
        held = self._held
        if held is None:
            return None
        none = frozenset[int]() if self._terms.copies else None
        shared = SharedState.pin(self._replica, held, self._position.serials, none)
        return _Pinned(shared, None)

    def _begin_write(self, now: float, pinned: _Pinned | None, is_over: bool = False) -> None:
        if pinned is None:
            return
        shared, held = pinned.shared, pinned.shared.held
        began, ran = time.perf_counter(), time.thread_time()
        own, entry = self._taken()
        took = time.perf_counter() - began
        self.blocked_s += time.thread_time() - ran
        self._boundaries.begin(now, held.place, took / _MAX_SHARE)
        self._began_s = now
        settings = self._settings()  # some may change while the run goes on
        previous = self._saved.manifest.sha256() if self._saved else None
        keep = self._terms.keep

        if not is_over:
            self._hooks.command(BeginSave(held.head))

        def job(pause: Callable[[], None]) -> Saved:
            def finish(files: tuple[FileEntry, ...]) -> Manifest:
                return shared.manifest(
                    self._replica,
                    files,
                    run=self._run,
                    settings=settings,
                    stage=self._stage,
                    own=entry,
                    previous=previous,
                    pause=pause,
                )

            saved = self._store.write(held.head, held.place, [*shared.contents, *own], finish, pause)
            # Who went back, or copied a replica with fewer steps, is not to begin with what it left.
            if self._terms.copies:
                covered = pinned.covered
                oldest = None if covered is None else self._store.prune_shares(keep, covered)
            else:
                oldest = self._store.prune(keep, held.steps)
            if oldest is not None:
                self.shelf.prune(oldest.serial_floor)
            return saved

        self.writer.begin(job)

    @property
    def _entry(self) -> OwnEntry | None:
        """How far the worker is; None if what is its own is not to be kept."""
        return self._own.entry if self._terms.own else None

    def _taken(self) -> tuple[list[Content], OwnEntry | None]:
        entry = self._entry
        if entry is None:
            return [], None
        try:
            taken = [self._own.take()], entry
        except (StateError, RuntimeError) as error:  # of a device that failed, say
            self._complaints.fails("own", f"what is this worker's own is not kept: {error}")
            return [], None
        self._complaints.works("own")
        return taken

    def _say_saved(self, manifest: Manifest) -> None:
        fragments = None if manifest.is_whole else manifest.here
        self._hooks.command(ConfirmSaved(manifest.held(), keeps=self.leads_on, fragments=fragments))

    def end_write(self, now: float, outcome: Saved | Exception, is_over: bool = False) -> None:
        """What was being written is done. Who has left (``is_over``) tells the swarm nothing of it."""
        self._boundaries.end(now)
        if isinstance(outcome, Exception):
            reason = outcome.strerror or str(outcome) if isinstance(outcome, OSError) else repr(outcome)
            self._complaints.fails("write", f"no checkpoint could be written: {reason}; training goes on")
            held = self._held
            self._hooks.tell(CheckpointFailed(held.place if held else 0, reason, self._unit))
            return
        self._saved, manifest = outcome, outcome.manifest
        self._complaints.works("write")
        # Results went missing before it: only a checkpoint that has those rounds in it is led on from again.
        self.leads_on = self._shelf_leads_on(manifest)
        if self.leads_on:
            self._complaints.works("results")
        if not is_over:
            self._say_saved(manifest)
        self._hooks.tell(
            CheckpointWritten(
                manifest.index,
                bytes.fromhex(manifest.head),
                manifest.size_bytes,
                now - self._began_s,
                self._unit,
            )
        )


def _shown(fragments: frozenset[int]) -> str:
    """For people."""
    return f"fragment{'s' * (len(fragments) != 1)} {', '.join(map(str, sorted(fragments))) or 'none'}"
