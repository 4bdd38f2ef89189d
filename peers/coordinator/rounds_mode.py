"""Rounds of the whole course: all members share one state, which every commit moves for all.

States are compared bit by bit (S1), everybody knows everybody at once, and the end is told when all hold the
last result, so that nobody is left without a donor. How rounds open and commit is in `rounds`.
"""

from __future__ import annotations

from collections.abc import Mapping

from peers.coordinator.agreement import Agreement, agreement_on
from peers.coordinator.course import Course
from peers.coordinator.exchange_mode import FragmentSources
from peers.coordinator.outlet import Outlet
from peers.coordinator.roster import Entry, Roster
from peers.coordinator.rules import Rules
from peers.protocol.messages import MemberGone, Ready, Report
from transport.limits import Limits


class RoundsMode:
    """The `ExchangeMode` of a run whose members share one state."""

    def __init__(self, rules: Rules, limits: Limits, outlet: Outlet, roster: Roster) -> None:
        self._rules = rules
        self._outlet = outlet
        self._roster = roster
        self._finished_at: float | None = None
        self.max_members = limits.members

    def num_rounds(self, course: Course) -> int:
        """Commits that moved the model."""
        return course.chain.num_rounds

    # -- who is here --------------------------------------------------------------------------

    def tell_entered(self, now: float, entry: Entry) -> None:
        """Everyone of the course is told of the newcomer, and the newcomer of everyone."""
        for other in self._roster.entered_in(entry.course):
            if other is not entry:
                self._outlet.send(now, other.key, self._roster.member_is(entry))
                self._outlet.send(now, entry.key, self._roster.member_is(other))

    def tell_active(self, now: float, entry: Entry) -> None:
        """Nothing is said: the coordinator tells with each round who is in it."""

    def tell_gone(self, now: float, gone: MemberGone) -> None:
        """All members of its course are told at once."""
        for other in self._roster.entered_in(self._roster.entries[gone.key].course):
            self._outlet.send(now, other.key, gone)

    def flush(self, now: float) -> None:
        """Nothing is to be done: this mode holds no messages back."""

    # -- state --------------------------------------------------------------------------------

    def dissenters(self, course: Course, fragment: int) -> list[Entry]:
        """Members whose state is not the one that most members report (S1)."""
        return list(self._agreement(course, fragment).dissenters)

    def differing_fragment(self, course: Course, entry: Entry) -> int | None:
        """The first fragment of the current version whose state is another than the agreed one."""
        assert course.manifest is not None
        for fragment in range(course.manifest.num_fragments):
            if entry in self._agreement(course, fragment).dissenters:
                return fragment
        return None

    def agreed(self, course: Course, fragment: int) -> Agreement:
        """Which state of the newest version of a fragment most members report."""
        return self._agreement(course, fragment)

    def disputed(self, course: Course, fragment: int) -> tuple[tuple[str, ...], ...]:
        """Who holds which state, where none is held by more than half."""
        return self._agreement(course, fragment).camps

    def sources(self, course: Course) -> FragmentSources:
        """Of each fragment the agreed state, and all who hold it and have named it."""
        assert course.manifest is not None
        found = [self._agreement(course, fragment) for fragment in range(course.manifest.num_fragments)]
        return [(fragment, each.name, list(each.donors)) for fragment, each in enumerate(found)]

    def next_donor(self, course: Course) -> Entry | None:
        """None: all who hold the state are donors."""
        return None

    def left_behind(self, course: Course, entry: Entry | None = None) -> list[Entry]:
        """Nobody: who is behind follows the records, or fetches the state when it enters."""
        return []

    def _agreement(self, course: Course, fragment: int) -> Agreement:
        chain, manifest = course.chain, course.manifest
        num_fragments = manifest.num_fragments if manifest else 1

        def awaited(entry: Entry) -> bool:
            # Where rounds wait for nobody, whoever is slow may never hold a version that stands.
            behind = chain.index - chain.index_of(entry.head)
            return not self._rules.quorum and behind <= num_fragments

        here, computed = self._roster.entered_in(course.number), course.recomputations.get(fragment)
        return agreement_on(here, fragment, chain.base(fragment), awaited, computed)

    # -- contributions and the end ------------------------------------------------------------

    def offered(self, now: float, course: Course, entry: Entry, message: Ready) -> None:
        """Keep a contribution until a round takes it, or the member takes it back."""
        fragment, index = message.fragment, course.chain.index
        is_first = fragment not in entry.ready
        entry.ready[fragment] = message
        entry.passes.pop(fragment, None)
        here = [each for each in self._roster.active_in(course.number) if fragment in each.ready]
        if is_first and [each for each in here if each.sits_out_until <= index] == [entry]:
            # Who sits out is not waited for, and its offer uses up nobody's grace.
            course.ready_since.pop(fragment, None)
            course.grace_ends.pop(fragment, None)
        course.ready_since.setdefault(fragment, now)

    def reported(self, now: float, course: Course, message: Report) -> list[Entry]:
        """Nobody: a run with rounds ends by its commits, not by what members report."""
        return []

    def tells_end_on_entering(self, entry: Entry) -> bool:
        """True for a member without a state; one with a state may still be a donor, and is told later."""
        return not entry.holds_state

    def awaiting_end(self, now: float, courses: Mapping[int, Course]) -> list[Entry]:
        """Everyone, once all hold the last result or had their time to: a member that is told leaves the run,
        and whoever is behind then has nobody to fetch the result from."""
        if self._finished_at is None:
            self._finished_at = now
        untold = [entry for entry in self._roster.entered() if not entry.told_finished]
        # The owner may end a run while rounds are open: their work counts.
        wanted = self._rules.rounds
        unfinished = any(each.rounds and self.num_rounds(each) < wanted for each in courses.values())
        # Who holds another state than is right must not leave with that.
        unfinished |= any(self.disputed(each, f) for each in courses.values() for f in each.recomputations)
        behind = unfinished or any(
            entry.head != courses[entry.course].chain.head or not entry.holds_state for entry in untold
        )
        patience_s = self._rules.grace_s + 2 * self._rules.failure_timeout_s
        return untold if not behind or now - self._finished_at > patience_s else []
