"""The one round of a model's buffers, which comes after the last round of parameters.

Where the manifest has a fragment more than the run's settings, that is of buffers (BatchNorm's statistics): a
run with all its rounds is not over before they were averaged. Members are asked for them; who is here is
enough, for others follow the commit, and nobody waits for those who are gone. Keeps L5: no member that is
gone keeps a run from its end.
"""

from __future__ import annotations

from peers.coordinator.course import Course
from peers.coordinator.state import RunState
from peers.protocol.messages import Wanted

ELEMENT_BYTES = 4.0
"""Buffers are sent as they are, in whatever format a run sends parameters."""
_RETURN_TIMEOUTS = 6
"""Failure timeouts in which members find a host that restarted."""


def is_of_buffers(state: RunState, fragment: int) -> bool:
    """Whether that is the fragment of buffers."""
    return fragment == state.rules.buffers_fragment


def fewest(state: RunState, fragment: int) -> int:
    """Contributions that make a round of that fragment."""
    return 1 if is_of_buffers(state, fragment) else state.rules.fewest


def fewest_active(state: RunState, fragment: int) -> int:
    """Active members without whom no round of that fragment opens."""
    return 1 if is_of_buffers(state, fragment) else state.rules.min_peers


def fewest_here(state: RunState, course: Course) -> int:
    """The same of what is due by now."""
    at_the_end = state.has_all_rounds and state.awaits_buffers(course)
    return 1 if at_the_end else state.rules.min_peers


def may_open(state: RunState, course: Course, now: float, fragment: int) -> bool:
    """Whether rounds of that fragment open by now."""
    if not is_of_buffers(state, fragment):
        return not state.has_all_rounds
    assert state.buffers_wait_until is not None, "`prepare` came before"
    if now < state.buffers_wait_until and not _all_are_back(state, course):
        return False
    return state.awaits_buffers(course) and set(course.rounds) <= {fragment}


def _all_are_back(state: RunState, course: Course) -> bool:
    """Those of the newest record are active; of a host that did not restart they are what they are."""
    if course.committed:
        return True
    newest = course.chain.record_of(course.chain.head)
    entries = [state.roster.entries[key] for key in newest.members] if newest is not None else []
    return all(entry.active or entry.kicked for entry in entries)


def prepare(state: RunState, course: Course, now: float) -> None:
    """Ask members for their buffers once all rounds are done, each once while it is active."""
    fragment = state.rules.buffers_fragment
    if state.buffers_wait_until is None:
        state.buffers_wait_until = now + _RETURN_TIMEOUTS * state.rules.failure_timeout_s
    if not state.has_all_rounds or not state.awaits_buffers(course):
        course.asked_for_buffers.clear()
        return
    if not state.stopped:  # what was open when the owner stopped the run counts
        for current in [each for each in course.rounds.values() if each.fragment != fragment]:
            state.abort(now, course, current, "the run has all its rounds")
    active = state.roster.active_in(course.number)
    if state.stopped and not active and now >= state.stays_until:
        state.gave_buffers_up = True
    course.asked_for_buffers &= {entry.key for entry in active}
    for entry in active if set(course.rounds) <= {fragment} else ():
        if fragment not in course.rounds and entry.key not in course.asked_for_buffers:
            course.asked_for_buffers.add(entry.key)
            if fragment not in entry.ready:
                state.outlet.send(now, entry.key, Wanted(fragment))
