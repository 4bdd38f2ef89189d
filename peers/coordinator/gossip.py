"""Gossip: members find groups of their own, and every member has a state of its own.

The coordinator opens no rounds. It tells the roster in batches, since there may be a thousand members, names
one member to copy for each newcomer, and ends the run when all have taken their outer steps. Who comes back
with a replica of its own goes on from that, unless it is far behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from statistics import median_high

from peers.coordinator.agreement import Agreement
from peers.coordinator.course import Course
from peers.coordinator.exchange_mode import FragmentSources
from peers.coordinator.journal import StepsTaken
from peers.coordinator.outlet import Outlet
from peers.coordinator.roster import Entry, Roster
from peers.coordinator.rules import Rules
from peers.protocol.messages import MemberActive, MemberGone, MemberIs, Ready, Report
from peers.protocol.roster_feed import RosterFeed
from peers.protocol.traces import SwappedTrace
from transport.frames import pack
from transport.limits import Limits

MAX_STEPS_BEHIND = 2
"""Outer steps that a replica from a disk may be behind the others' median. Its worker goes on from it then,
and partners wait for it as for a slow one; with more of them it would be matched with nobody for so long that
a copy of another one's is better."""


class GossipMode:
    """The `ExchangeMode` of a run whose members gossip."""

    def __init__(self, rules: Rules, limits: Limits, outlet: Outlet, roster: Roster) -> None:
        self._rules = rules
        self._outlet = outlet
        self._roster = roster
        self._feeds: defaultdict[int, RosterFeed] = defaultdict(lambda: RosterFeed(outlet.send))
        """By course: its members are told of each other alone."""
        self._slowest: dict[int, Entry] = {}
        """By course, a member that has not taken more outer steps than all have, when it was last looked."""
        self.max_members = limits.gossip_members

    def num_rounds(self, course: Course) -> int:
        """Outer steps that all members have taken."""
        return course.num_steps

    # -- who is here --------------------------------------------------------------------------

    def tell_entered(self, now: float, entry: Entry) -> None:
        """The newcomer reads the roster from its beginning."""
        feed = self._feeds[entry.course]
        feed.entered(now, entry.key)
        feed.add(now, self._roster.member_is(entry))

    def tell_active(self, now: float, entry: Entry) -> None:
        """All members learn that this one may be matched from now on."""
        self._feeds[entry.course].add(now, MemberActive(entry.key))

    def tell_gone(self, now: float, gone: MemberGone) -> None:
        """The other members read of it in the next batch."""
        feed = self._feeds[self._roster.entries[gone.key].course]
        feed.left(gone.key)
        feed.add(now, gone)

    def flush(self, now: float) -> None:
        """Send the batches that are due."""
        for course, feed in self._feeds.items():
            feed.flush(now, partial(self._everyone, course))

    def _everyone(self, course: int) -> Iterator[MemberIs | MemberActive]:
        for entry in self._roster.entered_in(course):
            yield self._roster.member_is(entry)
            if entry.active:
                yield MemberActive(entry.key)

    # -- state --------------------------------------------------------------------------------

    def dissenters(self, course: Course, fragment: int) -> list[Entry]:
        """Nobody dissents, since every member has a state of its own."""
        return []

    def differing_fragment(self, course: Course, entry: Entry) -> int | None:
        """None, since every member has a state of its own."""
        return None

    def agreed(self, course: Course, fragment: int) -> Agreement:
        """None, since every member has a state of its own."""
        return Agreement()

    def disputed(self, course: Course, fragment: int) -> tuple[tuple[str, ...], ...]:
        """Nothing is disputed, since every member has a state of its own."""
        return ()

    def sources(self, course: Course) -> FragmentSources:
        """A newcomer copies one member, as that one is now and names it. A donor that moved on meanwhile says
        so, and the newcomer asks for the next."""
        assert course.manifest is not None
        donor, found = self.next_donor(course), FragmentSources()
        for fragment in range(course.manifest.num_fragments):
            name = donor.name_of(fragment, course.chain.base(fragment)) if donor is not None else b""
            found.append((fragment, name, [donor.key] if donor is not None and name else []))
        return found

    def next_donor(self, course: Course) -> Entry | None:
        """Members are asked in turn, so that one that moves too fast is not asked for ever."""
        num_fragments = course.manifest.num_fragments if course.manifest is not None else 0
        active = self._roster.active_in(course.number)
        whole = [e for e in active if len(e.checks) == num_fragments and not e.out_of_sight]
        return whole[course.num_donations % len(whole)] if whole else None

    def left_behind(self, course: Course, entry: Entry | None = None) -> list[Entry]:
        """Members that came back with a replica from their disks, and are far behind most. One that has gone
        on from there by more than it lacks has more to lose, and is left to catch up."""
        here = [*self._roster.active_in(course.number), *([entry] if entry is not None else [])]
        if not any(each.claim for each in here):
            return []
        steps = {each: taken for each in here if (taken := _steps_of(each)) is not None}
        most = median_high(steps.values()) if steps else 0
        return [
            each
            for each, taken in steps.items()
            if each.claim is not None and most - taken > max(MAX_STEPS_BEHIND, taken - each.claim.index)
        ]

    # -- contributions and the end ------------------------------------------------------------

    def offered(self, now: float, course: Course, entry: Entry, message: Ready) -> None:
        """Nothing is to be done: there are no rounds to take a contribution."""

    def reported(self, now: float, course: Course, message: Report) -> list[Entry]:
        """Count the outer step that every member which holds a state has taken; with the last one the run is
        over for everybody."""
        if course.num_steps >= self._rules.rounds or message.rounds <= course.num_steps:
            return []
        slowest = self._slowest.get(course.number)
        if slowest is not None and slowest.active and _rounds_of(slowest) <= course.num_steps:
            return []
        active = self._roster.active_in(course.number)
        if active:
            self._slowest[course.number] = min(active, key=_rounds_of)
        taken = min(map(_rounds_of, active), default=0)
        if taken > course.num_steps:
            course.num_steps = taken
            self._outlet.store(pack(StepsTaken(taken, course.number)))
            self._outlet.trace(SwappedTrace(index=taken, members=tuple(each.key for each in active)))
        return self._roster.entered_in(course.number) if taken >= self._rules.rounds else []

    def tells_end_on_entering(self, entry: Entry) -> bool:
        """Always true: in a finished run nobody needs a donor."""
        return True

    def awaiting_end(self, now: float, courses: Mapping[int, Course]) -> list[Entry]:
        """Everyone who was not told when the last report came: those of a run that its owner ended."""
        return [entry for entry in self._roster.entered() if not entry.told_finished]


def _rounds_of(entry: Entry) -> int:
    """Outer steps that a member has taken, as it reported last."""
    return entry.report.rounds if entry.report else 0


def _steps_of(entry: Entry) -> int | None:
    """Outer steps of a member's replica, as far as it has told."""
    told = [entry.report.rounds] if entry.report else []
    return max([*told, entry.claim.index] if entry.claim else told, default=None)
