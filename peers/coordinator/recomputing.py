"""Which of several states is right: the host computes the step once more, and nobody votes.

Where members tell different states of a version, the record names the result that led there, and the state
before it, if its digest was known then; else most who held that one name it now, and its check, which all had
told before there was a dispute, must be that of what they hand out. The host gathers both from whoever holds
them (`gathering`), and a thread beside it goes that step once more. Until that is done nobody's state is
overwritten and no round of that fragment opens. What comes out decides if a member holds it, however many
hold another one. If nobody hands out what is needed, nothing is decided: the run waits, until somebody comes
who was not asked. Whoever was found wrong again and again gets the state later each time, so that false words
cost the others less and less. A dispute that is taken back, or left behind, is computed all the same, and who
told what is remembered.

Most decide only where there is nothing to compute, or it cannot be computed here: see `agreement`. Keeps S1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from peers.coordinator import naming
from peers.coordinator.agreement import State, states_told
from peers.coordinator.course import Course, Recomputation, RecomputationState
from peers.coordinator.gathering import Found, Gathering
from peers.coordinator.marks import FORGIVEN_AFTER
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.coordinator.unusable import MAX_DOUBLINGS
from peers.protocol.events import Computed, RecomputeWanted
from peers.protocol.record import Record
from peers.protocol.traces import RecomputedTrace
from transport.collectives.fetch import Lack, Piece
from transport.effects import Payload

COMPUTE_TIMEOUTS = 6
"""Failure timeouts that computing a step may take, beside the time of its bytes."""
COMPUTED_PER_S = 20 << 20
"""Bytes of which the slowest machine computes a step in a second."""
_UNNAMED = "nobody here hands out what it is computed from: most do not name the same state before"
FindBlob = Callable[[float, bytes], Found | None]
MAX_TRIES = 10
"""So often all who are here are asked for what a version is computed from, with pauses that double; from then
on only when somebody comes, or comes back, who was asked less often."""


def look_at(state: RunState, course: Course, fragment: int) -> None:
    """A member told its state of a fragment's newest version: have it computed if that is another one."""
    version = course.chain.base(fragment)
    known = course.recomputations.get(fragment)
    if known is not None and known.version == version:
        _note(state, course, fragment, known)
        return
    course.recomputations.pop(fragment, None)
    record = course.chain.record_of(version)
    if not state.recompute_bytes or record is None or len(_told(state, course, fragment, version)) < 2:
        return
    former = _former(course, record)
    if former is not None:
        known = course.recomputations[fragment] = Recomputation(version, record, *former)
        _note(state, course, fragment, known)


def _told(state: RunState, course: Course, fragment: int, version: bytes) -> dict[State, list[Entry]]:
    """The states that members tell of a version."""
    return states_told(state.roster.entered_in(course.number), fragment, version)


def _tellers(state: RunState, course: Course, fragment: int, version: bytes) -> dict[bytes, State]:
    """By member, the state that it tells of a version, with the digest that it told itself: nobody vouches
    for what another one named under the same check."""
    states = _told(state, course, fragment, version)
    return {
        entry.key: (check, entry.name_of(fragment, version))
        for (check, _), those in states.items()
        for entry in those
    }


def _note(state: RunState, course: Course, fragment: int, asked: Recomputation) -> None:
    if asked.pending:
        for key, (check, name) in _tellers(state, course, fragment, asked.version).items():
            asked.note(key, check, name)


def withdrawn(state: RunState, course: Course, fragment: int) -> list[Entry]:
    """Who told a state that was found wrong, and does not tell it any more; each once. Nobody, if what was
    computed is nobody's."""
    known = course.recomputations.get(fragment)
    if known is None or not any(map(known.is_right, known.told.values())):
        return []
    told, known.told = known.told, {}
    still, right = _tellers(state, course, fragment, known.version), (known.check, known.state)
    wrong = [key for key, each in told.items() if not known.is_right(each)]
    found = [state.roster.entries.get(key) for key in wrong if known.is_right(still.get(key, right))]
    return [entry for entry in found if entry is not None]


def _former(course: Course, record: Record) -> tuple[bytes, bytes, bytes] | None:
    """Version, check and digest of the state that an ordinary record moved, as they were agreed on before,
    empty as far as they were not; None if there is none."""
    if record.restores or course.manifest is None:
        return None
    fragment, name = record.fragment, record.former if any(record.former) else b""
    versions = course.chain.versions_at(record.parent, course.manifest.num_fragments)
    if versions is None:
        return (b"", b"", name) if name else None
    version, saves = versions[fragment], course.saves
    return version, saves.agreed_check(fragment, version), name or saves.agreed(fragment, version) or b""


def decided(course: Course, fragment: int, agreed: bytes) -> bool:
    """Whether the state of that check is agreed on since it was computed."""
    known = course.recomputations.get(fragment)
    is_known = known is not None and known.version == course.chain.base(fragment) and known.state
    return bool(is_known) and known is not None and known.check == agreed


def found_wrong(course: Course, now: float, entry: Entry, timeout_s: float) -> None:
    """It was computed that a member's state is wrong: it gets the right one at once the first time, and each
    time later after that."""
    index = course.chain.index
    entry.num_wrong = entry.num_wrong if index < entry.wrong_at + FORGIVEN_AFTER else 0
    pause_s = timeout_s * 2 ** min(MAX_DOUBLINGS, entry.num_wrong - 1) if entry.num_wrong else 0.0
    entry.served_from = now + pause_s
    entry.num_wrong, entry.wrong_at = entry.num_wrong + 1, index


@dataclass(slots=True)
class _Work:
    """What is done for one dispute just now."""

    course: Course
    fragment: int
    asked: Recomputation
    gathering: Gathering
    until: float = math.inf
    """When nobody waits for the thread any longer."""


class Recomputer:
    """Has disputed steps computed one after the other, so that one state at a time lies in the host's
    memory."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._work: _Work | None = None
        self._last: Gathering | None = None
        """Answers to it may still come."""
        self._ended: list[tuple[Course, int]] = []
        """Of what something is decided since that was last asked."""
        self.find_blob: FindBlob | None = None
        """What the member of this process would hand out; None without one."""

    @property
    def has_news(self) -> bool:
        """Whether `advance` would tell of something, or has work that waits for nothing."""
        return bool(self._ended) or (self._work is not None and self._work.gathering.busy)

    # -- one after the other ------------------------------------------------------------------

    def advance(self, now: float, course: Course) -> list[int]:
        """Do what can be done. The course's fragments of which something is decided now."""
        if self._work is not None and self._work.course is course:
            self._go_on(now)
        if self._work is None:
            self._begin_next(now, course)
        ended = [fragment for of, fragment in self._ended if of is course]
        self._ended = [each for each in self._ended if each[0] is not course]
        return ended

    def _begin_next(self, now: float, course: Course) -> None:
        if not course.recomputations:
            return
        holders = self._holders(course)
        for fragment, asked in sorted(course.recomputations.items()):
            if not asked.former:
                self._find_former(now, course, fragment, asked)
            if asked.former and self._goes_on(course, fragment, asked) and self._is_due(now, asked, holders):
                self._begin(now, course, fragment, asked, holders)
                return

    def _find_former(self, now: float, course: Course, fragment: int, asked: Recomputation) -> None:
        """Which state the step began from is not known: what most who hold that name it (`naming`)."""
        if not self._goes_on(course, fragment, asked):
            return
        state, version = self._state, asked.former_version
        asked.former = naming.majority(state, course, fragment, version, asked.false_names)
        if asked.former:
            asked.at = RecomputationState.WAITS
            return
        naming.ask(state, course, now, fragment, version)
        is_open = naming.awaits_names(state, course, now, fragment, version)
        if asked.at is RecomputationState.WAITS and not is_open:
            asked.num_tries += 1
            self._tell_end(course, fragment, asked, RecomputationState.UNSERVED, _UNNAMED)

    def _is_due(self, now: float, asked: Recomputation, holders: list[bytes]) -> bool:
        if asked.at is not RecomputationState.UNSERVED:
            return asked.at is RecomputationState.WAITS
        again = now >= asked.again_at and asked.num_tries < MAX_TRIES
        return bool(asked.ask(holders, MAX_TRIES)) or (again and bool(holders))

    def _begin(
        self, now: float, course: Course, fragment: int, asked: Recomputation, donors: list[bytes]
    ) -> None:
        state, manifest, record = self._state, course.manifest, asked.record
        assert manifest is not None, "there are records"
        gathering = Gathering(
            now,
            layout=manifest.shapes,
            former=asked.former,
            result=record.result,
            max_chunks=record.num_chunks(manifest.elements[fragment]),
            max_bytes=state.recompute_bytes,
            donors=donors,
            timeout_s=state.rules.failure_timeout_s,
            limits=state.limits,
        )
        if self.find_blob is not None:
            gathering.use(partial(self.find_blob, now))
        asked.at = RecomputationState.GATHERS
        asked.ask(donors, MAX_TRIES)
        self._work, self._last = _Work(course, fragment, asked, gathering), gathering
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        work = self._work
        if work is None:
            return
        asked, gathering = work.asked, work.gathering
        if asked.at is RecomputationState.COMPUTES:
            if now >= work.until:
                self._end(RecomputationState.FAILED, "computing it has not ended in time")
            return
        gathering.take_at_hand()
        if not self._goes_on(work.course, work.fragment, asked):
            asked.at, self._work = RecomputationState.WAITS, None
            return
        for peer in asked.ask(self._holders(work.course), MAX_TRIES):
            gathering.add(peer)
        gathering.pump(now, lambda peer, message: self._state.outlet.send(now, peer, message))
        if gathering.too_large:
            self._end(RecomputationState.FAILED, "the state takes more memory than this host may use for it")
        elif gathering.failed(now):
            pause_s = self._state.rules.failure_timeout_s * 2 ** min(MAX_DOUBLINGS, asked.num_tries)
            asked.again_at, asked.num_tries = now + pause_s, asked.num_tries + 1
            self._end(RecomputationState.UNSERVED, "nobody here hands out what it is computed from")
        elif gathering.done:
            asked.at = RecomputationState.COMPUTES
            for_bytes_s = gathering.num_pieces * self._state.limits.payload_bytes / COMPUTED_PER_S
            work.until = now + COMPUTE_TIMEOUTS * self._state.rules.failure_timeout_s + for_bytes_s
            self._state.outlet.deliver(_wanted(work))

    def _end(self, at: RecomputationState, reason: str, found: Computed | None = None) -> None:
        work = self._work
        assert work is not None, "something was done"
        self._work = None
        if found is not None:
            work.asked.check, work.asked.state = found.check, found.state
        self._tell_end(work.course, work.fragment, work.asked, at, reason)

    def _tell_end(
        self, course: Course, fragment: int, asked: Recomputation, at: RecomputationState, reason: str
    ) -> None:
        self._ended.append((course, fragment))
        asked.at = at
        index, is_found = asked.record.index, at is RecomputationState.FOUND
        trace = RecomputedTrace(fragment=fragment, index=index, found=is_found, reason=reason)
        self._state.outlet.trace(trace)

    def _holders(self, course: Course) -> list[bytes]:
        """Members that may hold what is needed. This process is asked in another way."""
        entered = self._state.roster.entered_in(course.number)
        here = [e.key for e in entered if e.holds_state and not e.out_of_sight]
        return [key for key in here if key != self._state.me]

    def _goes_on(self, course: Course, fragment: int, asked: Recomputation) -> bool:
        """Whether that version is still to be computed: the first time also if whoever disputed it took that
        back or left, or it could have each version fetched, and never be found wrong."""
        if course.chain.base(fragment) != asked.version:
            return False
        first = asked.pending and not asked.num_tries
        return first or len(_told(self._state, course, fragment, asked.version)) > 1

    # -- what comes ---------------------------------------------------------------------------

    def take_answer(self, version: bytes, found: Computed | None, reason: str) -> None:
        """The thread is done: what it found, or why it found nothing."""
        work = self._work
        if work is None or work.asked.at is not RecomputationState.COMPUTES or work.asked.version != version:
            return
        asked = work.asked
        if found is None:
            self._end(RecomputationState.FAILED, reason)
        elif asked.former_check and found.former_check != asked.former_check:
            asked.false_names.add(asked.former)
            asked.former, asked.at, self._work = b"", RecomputationState.WAITS, None
        else:
            self._end(RecomputationState.FOUND, reason, found)

    def takes(self, peer: bytes, message: object) -> bool:
        """Whether something that a member sends is for this: it was asked for it, or, where nobody else in
        this process asks for anything, was before."""
        if not isinstance(message, Piece) or self._last is None:
            return False
        return self._last.expects(peer, message) or (
            self.find_blob is None and self._last.names(message.blob)
        )

    def take_piece(self, now: float, peer: bytes, message: Piece, payload: Payload) -> None:
        """A member hands something out."""
        if self._last is not None:
            self._last.take(now, peer, message, payload)
        self._go_on(now)

    def take_lack(self, now: float, course: Course, entry: Entry, message: Lack) -> None:
        """A member does not have something."""
        if self._last is not None:
            self._last.lacks(entry.key, message.blob)

    def drop(self, peer: bytes) -> None:
        """A member is gone. If it comes back it may have what it lacked."""
        if self._last is not None:
            self._last.drop(peer)
        for course in self._state.courses.values():
            for asked in course.recomputations.values():
                asked.donors.discard(peer)


def _wanted(work: _Work) -> RecomputeWanted:
    gathering, record = work.gathering, work.asked.record
    return RecomputeWanted(
        version=work.asked.version,
        fragment=work.fragment,
        layout=gathering.layout,
        former=gathering.take_former(),
        result=gathering.result,
        chunk_elements=max(1, record.chunk_elements),
        num_parts=len(record.members),
    )
