"""What members show of open rounds, and what follows from the coordinator's judgement.

One thing per member and round is looked at, or the chunks of one author that together are too long; what
else it shows is its word. Whoever was wrong is put out for good; where nothing can be told, what is shown is
a word (`peers.coordinator.accusations`). Keeps X10.
"""

from __future__ import annotations

from collections.abc import Callable

from peers.coordinator import accusations, rounds
from peers.coordinator.course import Course
from peers.coordinator.judgement import Court, Verdict, mean_groups
from peers.coordinator.measured import LengthsShown
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.evidence import (
    ROOT_BYTES,
    Evidence,
    Roots,
    Shown,
    ShownDigests,
    ShownMean,
    ShownPart,
    ToldTwoThings,
)
from peers.protocol.fields import cut
from peers.protocol.messages import Refused, Stuck
from peers.protocol.traces import DissentTrace, ProvedWrongTrace
from transport.effects import Payload, Phantom
from transport.errors import BadFrame

PutOut = Callable[[float, Entry, Refused], None]


class Hearing:
    """Takes evidence, and carries verdicts out by ``put_out``."""

    def __init__(self, state: RunState, court: Court | None, put_out: PutOut) -> None:
        self._state = state
        self._court = court
        self._put_out = put_out

    def take(self, now: float, peer: bytes, message: Evidence, payload: Payload) -> None:
        """What came with a payload. Raises `BadFrame`."""
        if isinstance(message, Shown):
            self.take_chunk(now, peer, message, payload)
        elif isinstance(message, Roots):
            self.take_roots(peer, message, payload)
        else:
            self._take_of_mean(now, peer, message, payload)

    def _take_of_mean(
        self, now: float, peer: bytes, message: ShownPart | ShownMean | ShownDigests, payload: Payload
    ) -> None:
        """An owner shows of what it made a mean of a round that is over."""
        entry = self._state.roster.entries.get(peer)
        if entry is None or not entry.entered or entry.kicked:
            return
        course = self._state.course_of(entry)
        case = course.mean_case
        if case is None or (case.owner, case.current.serial) != (peer, message.serial):
            return
        case.take(message, payload)
        if not case.complete:
            return
        course.mean_case = None
        verdict = self._court.of_mean(case) if self._court else None
        if verdict is None:
            return
        self._trace(entry, verdict)
        if entry.key != self._state.me:
            self._put_out_for(now, entry, verdict)

    def take_chunk(self, now: float, peer: bytes, message: Shown, payload: Payload) -> None:
        """A chunk that a member refuses; one of the two is wrong. Raises `BadFrame`."""
        found = self._round_of(peer, message)
        if found is None:
            return
        course, accuser, current = found
        if message.num_long:
            self._take_long(now, course, current, accuser, message, payload)
            return
        verdict = None
        if self._court is not None and self._is_first(current, peer):
            identity = self._state.roster.entries[message.author].identity
            verdict = self._court.of_shown(current, peer, identity, message, payload)
        if verdict is not None:
            self._carry_out(now, course, current, verdict)
        else:
            self._take_for_a_word(now, course, current, accuser, message, message.reason or "it is refused")

    def _take_long(
        self,
        now: float,
        course: Course,
        current: OpenRound,
        accuser: Entry,
        message: Shown,
        payload: Payload,
    ) -> None:
        """One of the chunks that together are longer than their author says."""
        peer = accuser.key
        if self._court is not None and peer not in current.lengths and self._is_first(current, peer):
            current.lengths[peer] = LengthsShown(message)
        shown, square = current.lengths.get(peer), None
        if self._court is not None and shown is not None and shown.takes(message):
            identity = self._state.roster.entries[message.author].identity
            square = self._court.square_of(current, peer, identity, message, payload)
        if isinstance(square, Verdict):
            self._carry_out(now, course, current, square)
            return
        if shown is not None and square is not None:
            shown.squares[message.chunk] = square
            too_long = shown.too_long(current.limit_of(message.author, message.mean))
            if too_long is not None:
                self._carry_out(now, course, current, _on_length(accuser.key, message, too_long))
            if too_long is not None or not shown.complete:
                return
        self._take_for_a_word(now, course, current, accuser, message, message.reason or "it is too long")

    def take_two_things(self, now: float, course: Course, entry: Entry, message: ToldTwoThings) -> None:
        """Two roots that one author signed under one statement. Raises `BadFrame`."""
        peer = entry.key
        found = self._round_of(peer, message)
        if found is None:
            return
        course, accuser, current = found
        if self._court is not None and self._is_first(current, peer):
            identity = self._state.roster.entries[message.author].identity
            self._carry_out(now, course, current, self._court.of_two_things(current, peer, identity, message))
        else:
            self._take_for_a_word(now, course, current, accuser, message, "it vouched for two things")

    def _is_first(self, current: OpenRound, peer: bytes) -> bool:
        """Whether a member shows its first thing in this round. More is a word, for its exchange waits for an
        answer: another one may have lied to it in an attempt before."""
        first = peer not in current.shown_by
        current.shown_by.add(peer)
        return first

    def _take_for_a_word(
        self,
        now: float,
        course: Course,
        current: OpenRound,
        accuser: Entry,
        message: Shown | ToldTwoThings,
        reason: str,
    ) -> None:
        word = Stuck(message.serial, message.attempt, (message.author,), reason)
        accusations.hear(self._state, course, now, current, accuser, word)

    def take_roots(self, peer: bytes, message: Roots, payload: Payload) -> None:
        """Under which roots a member got the means of an attempt. Raises `BadFrame`."""
        found = self._round_in(peer, message.serial)
        if found is None or message.attempt != found[2].attempt or peer in found[2].roots:
            return
        current = found[2]
        count = len(mean_groups(current, message.num_elements))
        if isinstance(payload, Phantom) or len(payload) != ROOT_BYTES * count:
            raise BadFrame(f"{len(payload)} bytes of {count} roots")
        current.roots[peer] = message.num_elements, bytes(payload)

    def settle_dissent(self, now: float, course: Course, current: OpenRound) -> None:
        """Members hold different results. The attempt is repeated proved, and so are the next rounds, for one
        that lies only where it need not vouch for it would cost each of them an attempt. If members differ in
        a proved attempt, who vouched for different means is out, and if nobody did, who differs from most
        sits out."""
        if not current.differ() or course.rounds.get(current.fragment) is not current:
            return
        if not current.proved:
            current.proved = True
            course.suspicion.distrust_all(course.chain.index)
            self._trace_dissent(current)
            rounds.repeat(self._state, course, now, current)
            return
        if current.roots_until is None:
            current.roots_until = now + self._state.rules.failure_timeout_s
            self._trace_dissent(current)
        if now < current.roots_until and not set(current.members) <= current.roots.keys():
            return
        verdicts = self._verdicts(current)
        for verdict in verdicts:
            self._carry_out(now, course, current, verdict)
        if not verdicts:
            rounds.part_with_dissenters(self._state, course, now, current)

    def _trace_dissent(self, current: OpenRound) -> None:
        trace = DissentTrace(serial=current.serial, peers=tuple(current.dissenters()))
        self._state.outlet.trace(trace)

    def _verdicts(self, current: OpenRound) -> list[Verdict]:
        if self._court is None:
            return []
        known = self._state.roster.entries
        return self._court.of_roots(current, {each: known[each].identity for each in current.members})

    def _round_of(
        self, peer: bytes, message: Shown | ToldTwoThings
    ) -> tuple[Course, Entry, OpenRound] | None:
        """Of an author that has left too, or it could leave before anyone shows what it sent."""
        found = self._round_in(peer, message.serial)
        if found is None or message.author not in found[2].founders:
            return None
        if self._state.roster.entries[message.author].kicked:
            return None
        return found

    def _round_in(self, peer: bytes, serial: int) -> tuple[Course, Entry, OpenRound] | None:
        """The open round of that serial, if that member is in it."""
        entry = self._state.roster.entries.get(peer)
        if entry is None or not entry.entered or entry.kicked:
            return None
        course = self._state.course_of(entry)
        current = course.round_of(serial)
        return (course, entry, current) if current and peer in current.members else None

    def _carry_out(self, now: float, course: Course, current: OpenRound, verdict: Verdict) -> None:
        entry = self._state.roster.entries[verdict.guilty]
        self._trace(entry, verdict)
        if entry.key == self._state.me:  # the host's own worker cannot be parted from the host
            rounds.set_aside(self._state, course, now, current, [entry.key], cut(verdict.reason))
        else:
            self._put_out_for(now, entry, verdict)

    def _trace(self, entry: Entry, verdict: Verdict) -> None:
        trace = ProvedWrongTrace(peer=entry.key, peer_name=entry.name, reason=verdict.reason)
        self._state.outlet.trace(trace)

    def _put_out_for(self, now: float, entry: Entry, verdict: Verdict) -> None:
        self._put_out(now, entry, Refused("proved", cut(f"this worker was put out: {verdict.reason}")))


def _on_length(accuser: bytes, shown: Shown, too_long: bool) -> Verdict:
    what = "means that are longer than any contribution" if shown.mean else "more than it says that it sent"
    if too_long:
        return Verdict(shown.author, f"it vouched for {what}")
    return Verdict(accuser, f"it said of another that it vouched for {what}")
