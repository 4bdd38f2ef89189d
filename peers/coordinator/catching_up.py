"""Rounds that wait while one who fell behind again and again fetches the state.

Whoever gets the state while the others go on lacks the results since, of which few are kept. Where commits
come faster than it takes them (somebody commits alone; a model is large for its links) it falls behind before
it is in any of them, again and again, and each time what it trained is lost. So from the second time on no
round of its course opens while it fetches the state: for the grace, or an eighth of the time for which it has
been behind, whatever is longer, and after that not for eight times as long. So whoever can get the state at
all is in the end given the time for it, and one that never arrives, or only says so, costs the others a ninth
of their time. Decides nothing else. Part of L4.
"""

from __future__ import annotations

import math

from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState

TIMES = 2
"""Times that a member falls behind between two commits that count it, before rounds wait for it."""
SHARE = 8
"""Rounds wait for one member for one part of the time, and go on without it for so many."""


def fell_behind(now: float, entry: Entry) -> None:
    """A member says that it cannot follow."""
    if not entry.chase.num_times:
        entry.chase.since = now
    entry.chase.num_times += 1


def follows(state: RunState, now: float, entry: Entry) -> None:
    """A member was told donors: rounds wait for it, if it is time for that. With a quorum they never do."""
    chase = entry.chase
    if chase.num_times < TIMES or now < chase.again_from or state.rules.quorum:
        return
    wait_s = max(state.rules.grace_s, (now - chase.since) / SHARE)
    chase.until = now + wait_s
    chase.again_from = chase.until + SHARE * wait_s


def awaited(state: RunState, course: Course, now: float) -> list[Entry]:
    """For whom rounds of a course wait now."""
    following = state.roster.following_in(course.number)
    return [entry for entry in following if now < entry.chase.until and not entry.is_missing]


def next_end(state: RunState, looked_at: float) -> float:
    """When such a wait ends next; infinity if there is none."""
    following = [e for course in state.courses for e in state.roster.following_in(course)]
    return min((e.chase.until for e in following if e.chase.until > looked_at), default=math.inf)
