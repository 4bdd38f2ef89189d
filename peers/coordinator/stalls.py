"""What follows when members of an open round wait for others in vain, and for how long they sit out.

Of two who do not reach each other either may be wrong, or say what is not so. Nobody sits out for that
alone: the pair is kept *apart*, which means that both own no chunks for a while, so that neither needs the
other. One that is at odds with several sits out. Each such wait costs everybody a failure timeout, and
commits between do not excuse it: who stalls again soon after it came back sits out longer. Part of L2, X9
and X12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from peers.coordinator import rounds
from peers.coordinator.course import Course
from peers.coordinator.marks import Pair
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.traces import PartedTrace

FORGIVEN_AFTER = 16
"""Commits for which a member that is back must not stall, so that the times before do not count."""


def judge(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    """Some members report others: after a short wait for more reports, part pairs or set the fewest aside."""
    if current.judge_at is None or (now < current.judge_at and not current.all_have_reported()):
        return
    current.judge_at = None
    index = course.chain.index
    known = {m for m in current.members if course.apart.partners(m, index)}
    found = _Reports(state, course, now, current).settle()
    for pair in found.parted:
        state.outlet.trace(PartedTrace(serial=current.serial, peers=pair))
    if found.victims:
        for entry in (state.roster.entries[key] for key in found.victims):
            if rounds.is_another_time(entry, current):
                _remember(index, entry, was_parted=entry.key in known)
        reason = "it and another member do not reach each other"
        several = found.at_odds_with_several
        rounds.set_aside(state, course, now, current, found.victims, reason, by_several=several)
    elif found.parted:
        rounds.repeat(state, course, now, current)


@dataclass(slots=True)
class Settled:
    """What settles all reports of an attempt."""

    victims: list[bytes] = field(default_factory=list)
    """The fewest members whose leaving does, greedily."""
    at_odds_with_several: list[bytes] = field(default_factory=list)
    """Of the victims: who lives, and has several wait. A process that stands still has everybody wait."""
    parted: list[Pair] = field(default_factory=list)
    """Pairs of whom both stay, and own no chunks."""


class _Reports:
    """The reports of one attempt, and what is remembered of those who are in them."""

    def __init__(self, state: RunState, course: Course, now: float, current: OpenRound) -> None:
        self._course, self._current = course, current
        self._entries: Mapping[bytes, Entry] = state.roster.entries
        self._pairs = current.reported_pairs()
        silence_s = state.rules.failure_timeout_s / 2
        self._unheard = {m for m in current.members if now - state.outlet.last_heard(now, m) > silence_s}
        index = course.chain.index
        self._partners = {
            m: course.apart.partners(m, index).union(*(pair for pair in self._pairs if m in pair)) - {m}
            for m in current.members
        }

    def settle(self) -> Settled:
        """The one in most reports goes first, then the one unheard for long, then whoever was at odds with
        most others lately. Of two who are equal in all this and whom nobody else reports none goes."""
        found = Settled()
        for reporter in self._current.reports_of_idle():
            self._go(found, reporter)
        while self._pairs:
            degree = Counter(member for pair in self._pairs for member in pair)
            worst = max(degree, key=lambda m: (degree[m], *self._rank(m), *self._turn(m)))
            pair = next(each for each in self._pairs if worst in each)
            if degree[worst] > 1 or not self._part(found, pair):
                self._go(found, worst)
        return found

    def _part(self, found: Settled, pair: Pair) -> bool:
        """Remember that these two do not reach each other. True if neither has to go."""
        self._course.apart.add(pair, self._course.chain.index)
        left = [m for m in self._current.members if m not in found.victims]
        if self._rank(pair[0]) != self._rank(pair[1]) or not rounds.idle_of(self._course, left) >= {*pair}:
            return False
        found.parted.append(pair)
        self._pairs.remove(pair)
        return True

    def _go(self, found: Settled, member: bytes) -> None:
        found.victims.append(member)
        if len(self._partners[member]) > 1 and member not in self._unheard:
            found.at_odds_with_several.append(member)
        self._pairs = [pair for pair in self._pairs if member not in pair]

    def _rank(self, member: bytes) -> tuple[bool, int]:
        return member in self._unheard, len(self._partners[member])

    def _turn(self, member: bytes) -> tuple[int, int]:
        """Of equals they take turns, and whoever came last begins."""
        entry = self._entries[member]
        return -entry.num_stalls, entry.order


def _remember(index: int, entry: Entry, *, was_parted: bool) -> None:
    """Count what it did before in the penalty that follows."""
    if index >= entry.sits_out_until + FORGIVEN_AFTER:
        entry.num_stalls = 0
    entry.num_stalls = max(entry.num_stalls, int(was_parted))
    entry.num_penalties = max(entry.num_penalties, min(rounds.MAX_PENALTIES, entry.num_stalls))
    entry.num_stalls += 1
