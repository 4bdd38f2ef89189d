"""Who leaves an open round because others wait for it in vain, and for how long rounds do without it.

Each such wait costs everybody a failure timeout. Commits between do not excuse it: a member that stalls again
soon after it came back sits out longer each time, and longest where several others wait for it, for that is
no single member's word. Part of L2 and X12.
"""

from __future__ import annotations

from peers.coordinator import rounds
from peers.coordinator.course import Course
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState

FORGIVEN_AFTER = 16
"""Commits for which a member that is back must not stall, so that the times before do not count."""


def judge(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    """Some members report others: after a short wait for more reports, set the fewest aside."""
    if current.judge_at is None or (now < current.judge_at and not current.all_have_reported()):
        return
    current.judge_at = None
    silent_s = {m: now - state.outlet.last_heard(now, m) for m in current.members}
    order = {m: state.roster.entries[m].order for m in current.members}
    victims = current.whom_to_set_aside(silent_s, order, state.rules.failure_timeout_s)
    if not victims:
        return
    for key in victims:
        _remember(course, state.roster.entries[key])
    several = [key for key in victims if len(current.reporters_of(key)) > 1]
    reason = "it and another member do not reach each other"
    rounds.set_aside(state, course, now, current, victims, reason, by_several=several)


def _remember(course: Course, entry: Entry) -> None:
    """Count what it did before in the penalty that follows."""
    if course.chain.index >= entry.sits_out_until + FORGIVEN_AFTER:
        entry.num_stalls = 0
    entry.num_penalties = max(entry.num_penalties, min(rounds.MAX_PENALTIES, entry.num_stalls))
    entry.num_stalls += 1
