"""What the parts of a coordinator share: roster, courses, term, and the few operations on all of them.

Every decision that others rely on is journaled before it is said: `begin_run` and `commit` do that here. Who
decides is elsewhere: rounds in `rounds`, newcomers in `state_sync`, memberships in `coordinator`. A restarted
coordinator finds here again what its journal says, and serials that never meet those of an earlier life.
"""

from __future__ import annotations

import hashlib
from typing import Any

from peers.coordinator.chain import Chain
from peers.coordinator.course import Course
from peers.coordinator.exchange_mode import ExchangeMode
from peers.coordinator.journal import (
    Adopted,
    CommitWritten,
    Forked,
    ModelAgreed,
    PeerCertified,
    PeerInvited,
    PeerKicked,
    PeerSigns,
    PlaceGivenBack,
    RunBegan,
    RunStopped,
    SettingsChanged,
    StageGiven,
    StageMoves,
    Stands,
    StateCovered,
    StateSaved,
    StepsTaken,
    TermBegan,
    WouldMove,
)
from peers.coordinator.open_round import OpenRound
from peers.coordinator.outlet import Outlet
from peers.coordinator.roster import Entry, Roster
from peers.coordinator.rules import Rules
from peers.coordinator.tickets import Tickets
from peers.errors import BadEntry
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Abort, Committed, Finished
from peers.protocol.record import TERM_BITS, Record
from peers.protocol.traces import AbortedTrace
from transport.errors import BadFrame
from transport.frames import pack
from transport.keys import short
from transport.limits import Limits


class RunState:
    """A run as its coordinator knows it."""

    def __init__(
        self,
        me: bytes,
        rules: Rules,
        limits: Limits,
        outlet: Outlet,
        roster: Roster,
        mode: ExchangeMode,
    ) -> None:
        self.me = me
        self.rules = rules
        self.limits = limits
        self.outlet = outlet
        self.roster = roster
        self.mode = mode
        keep, buffers = limits.history_records, rules.buffers_fragment
        self.courses = {n: Course(n, Chain(keep, buffers)) for n in range(rules.stages)}
        """By number, which is that of its stage; there is always number 0."""
        self.term = 0
        self.tickets = Tickets(limits)
        self.judges = False
        """This host can decode what members show it."""
        self.recompute_bytes = 0
        """Most bytes of a fragment's state of which this host can compute a step; 0 where it cannot."""
        self.secret = b""
        """Of this process: what is drawn with it nobody else can tell beforehand."""
        self.stopped = False
        """The owner ended the run."""
        self.buffers_wait_until: float | None = None
        """Until then a host that restarted after the last round waits for who was in it, whose buffers count
        and who could fetch the mean from nobody later."""
        self.gave_buffers_up = False
        """The owner ended the run, and nobody was here any more whose buffers could be averaged."""
        self.forked = False
        """The first state is an earlier one, which the worker of this process brings: no other may seed."""
        self.changed_settings = b""
        """What was changed in the run's settings, as members are told; nothing while all is as it began."""
        self.adopting = False
        """The owner is about to choose a record of the members to go on from."""
        self.resume: int | None = None
        """The owner wants the run to go on from the record of this index."""
        self.stays_until = 0.0
        """Until then a host that restarted after the last round waits to tell members that come back."""
        self.arriving: dict[bytes, float] = {}
        """Who greeted, and until when the end of the run waits to tell those that did not enter yet."""
        self.standing: dict[bytes, int] = {}
        """In a run with stages: since which epoch each membership stands (`standing`)."""
        self._num_serials = 0

    # -- lives --------------------------------------------------------------------------------

    def restore(self, entries: list[Any]) -> None:
        """Replay the journal: the same decisions, in order. Raises `BadEntry`."""
        for number, entry in enumerate(entries, 1):
            try:
                self._replay(entry)
            except BadFrame as error:
                raise BadEntry(number, str(error)) from None

    def _replay(self, entry: Any) -> None:
        """One decision of an earlier life. Raises `BadFrame` for one that cannot have been taken there."""
        self.tickets.replay(entry)
        match entry:
            case TermBegan():
                self.term = entry.term
            case PeerCertified():
                self.roster.certify(entry.key, entry.name)
            case PeerInvited():
                self.roster.certify(entry.key, entry.name, entry.invite)
            case PeerSigns():
                self._known(entry.key).identity = entry.identity
            case PlaceGivenBack():
                self._known(entry.key).has_place = False
            case PeerKicked():
                self._known(entry.key).kicked = True
            case StageGiven():
                self._course_numbered(entry.stage)
                known = self._known(entry.key)
                known.train_stage(entry.stage)
                known.keeps_stage, known.moves_to = True, None
            case StageMoves():
                self._course_numbered(entry.stage)
                known = self._known(entry.key)
                known.moves_to = entry.stage if entry.stage != known.given_stage else None
            case WouldMove():
                known = self._known(entry.key)
                known.may_move, known.memory_bytes = entry.moves, entry.memory_bytes
                known.kept_terms = known.may_move, known.memory_bytes
            case Stands():
                self._known(entry.key)
                self.standing[entry.key] = entry.since
                if not entry.since:
                    del self.standing[entry.key]
            case RunStopped():
                self.stopped = True
            case Forked():
                self.forked = True
            case SettingsChanged():
                self.changed_settings = entry.values
                self.stopped = self.stopped and not entry.goes_on
            case ModelAgreed():
                self._course_numbered(entry.course).manifest = entry.manifest()
            case RunBegan():
                self._replay_beginning(entry)
            case StateSaved():
                self._known(entry.key)
                course = self._course_numbered(entry.course)
                if self.rules.gossips:
                    course.saves.believe(entry)
                else:
                    course.saves.replay(course.chain, entry)
            case StateCovered():
                self._course_numbered(entry.course).saves.cover(entry)
            case StepsTaken():
                self._course_numbered(entry.course).num_steps = entry.steps
            case CommitWritten():
                self._replay_commit(entry.commit())
            case Adopted():
                self._replay_adopted(entry.record(), entry.restoring())

    def _replay_beginning(self, entry: RunBegan) -> None:
        course = self._course_numbered(entry.course)
        if course.chain.index:
            raise BadFrame("it names a first state, and there are commits already")
        course.begin(entry.head)

    def _replay_adopted(self, record: Record, restoring: Record) -> None:
        chain = self._course_numbered(record.course).chain
        if record.index < chain.index or restoring.parent != record.hash() or not restoring.restores:
            raise BadFrame(f"commit {record.index} cannot be adopted after commit {chain.index}")
        chain.adopt(record)
        self._replay_commit(restoring)

    def _replay_commit(self, record: Record) -> None:
        course = self._course_numbered(record.course)
        if (record.parent, record.index) != (course.chain.head, course.chain.index + 1):
            raise BadFrame(f"commit {record.index} does not follow commit {course.chain.index}")
        if course.manifest is not None and not record.restores:
            course.manifest.check_fragment(record)
        course.chain.append(record)

    def _course_numbered(self, number: int) -> Course:
        found = self.courses.get(number)
        if found is None:
            raise BadFrame(f"it is about course {number}, which the run does not have")
        return found

    def _known(self, key: bytes) -> Entry:
        entry = self.roster.entries.get(key)
        if entry is None:
            raise BadFrame(f"it is about worker {short(key)}, who was never let in")
        return entry

    def begin_term(self) -> None:
        """Begin this life: its epochs and serials never meet those of an earlier one."""
        self.term += 1
        self.outlet.store(pack(TermBegan(self.term)))
        self.roster.epoch = self.term << TERM_BITS

    @property
    def life(self) -> bytes:
        """What no other process of the host has, whatever journal it began with."""
        return hashlib.sha256(b"diloco life\0" + self.secret).digest()[:16]

    def next_serial(self) -> int:
        """A number that no other round of this run has."""
        self._num_serials += 1
        return (self.term << TERM_BITS) + self._num_serials

    # -- courses ------------------------------------------------------------------------------

    def course_of(self, entry: Entry) -> Course:
        """The course that a member belongs to."""
        return self.courses[entry.course]

    @property
    def num_rounds(self) -> int:
        """Rounds that every course has: how often the whole model was moved."""
        return min(map(self.mode.num_rounds, self.courses.values()))

    @property
    def finished(self) -> bool:
        """Every course has its rounds, or the owner ended the run; and buffers were averaged."""
        return self.has_all_rounds and not any(map(self.awaits_buffers, self.courses.values()))

    @property
    def has_all_rounds(self) -> bool:
        """No other round of parameters is to open."""
        return self.stopped or self.num_rounds >= self.rules.rounds

    def awaits_buffers(self, course: Course) -> bool:
        """The model has buffers, and they were not averaged since the last round. Where the owner stopped
        the run, and nobody is left who has any, they are given up."""
        fragment, manifest = self.rules.buffers_fragment, course.manifest
        if fragment < 0 or manifest is None or manifest.num_fragments <= fragment:
            return False
        return not (course.chain.ends_with_buffers or self.gave_buffers_up or not course.has_moved)

    def tell_finished(self, now: float, entry: Entry) -> None:
        """A member learns that the run is over."""
        entry.told_finished = True
        self.outlet.send(now, entry.key, Finished(self.num_rounds))

    # -- decisions ----------------------------------------------------------------------------

    def agree_on_model(self, course: Course, manifest: Manifest) -> None:
        """Take the first member's manifest as that of all members of the course."""
        course.manifest = manifest
        self.outlet.store(pack(ModelAgreed.of(manifest, course.number)))

    def begin_run(self, course: Course, head: bytes) -> None:
        """Name a course's first state, or with `GENESIS` say that it is lost."""
        self.outlet.store(pack(RunBegan(head, course.number)))
        course.begin(head)

    def kick(self, entry: Entry) -> None:
        """That identity may enter no more."""
        self.outlet.store(pack(PeerKicked(entry.key)))
        entry.kicked = True

    def stop(self) -> None:
        """The run is over with the rounds that it has: no other one opens."""
        self.outlet.store(pack(RunStopped(self.num_rounds)))
        self.stopped = True

    def commit(self, now: float, course: Course, record: Record) -> bytes:
        """Write a record to the journal, then announce it. Returns its hash, the new head."""
        self.outlet.store(pack(CommitWritten.of(record)))
        head = course.chain.append(record)
        course.committed = True
        self.announce(now, course, record)
        return head

    def follow_term(self, term: int) -> None:
        """Serials and epochs of this life are to be higher than those of one that the journal lacks."""
        if term >= self.term:
            self.term = term
            self.begin_term()

    def adopt(self, now: float, course: Course, record: Record, restoring: Record) -> None:
        """Go on from a record that the journal lacks, with one that restores the state behind it."""
        self.outlet.store(pack(Adopted.of(record, restoring)))
        course.chain.adopt(record)
        course.chain.append(restoring)
        course.committed = True
        self.announce(now, course, restoring)

    def announce(self, now: float, course: Course, record: Record) -> None:
        """Tell a course's members of a record; contributions to what it moved are void."""
        message = Committed(pack(record))
        for entry in self.roster.entered_in(course.number):
            if record.restores:
                entry.ready.clear()
            else:
                entry.ready.pop(record.fragment, None)
            self.outlet.send(now, entry.key, message)

    def abort(self, now: float, course: Course, current: OpenRound, reason: str) -> None:
        """Give a round up; contributions stay offered."""
        del course.rounds[current.fragment]
        self.outlet.trace(AbortedTrace(serial=current.serial, fragment=current.fragment, reason=reason))
        for member in current.members:
            self.outlet.send(now, member, Abort(current.serial, reason, True))
