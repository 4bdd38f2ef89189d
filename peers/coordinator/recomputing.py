"""Which of several states is right: the host's own worker computes it once more.

Where members tell different states of a version, the state before it was agreed on by its digest, and the
record names the result that leads from one to the other. The host's own worker is asked to go that step once
more. Until it has answered, for one failure timeout at most, nobody's state is overwritten and no round of
that fragment opens. Its answer decides if a member holds that state, however many hold another one; where it
has none (the host does not train, or came too late to hold the state before), most decide: see `agreement`.
"""

from __future__ import annotations

from peers.coordinator.course import Course, Recomputation
from peers.coordinator.state import RunState
from peers.protocol.messages import Recompute, Recomputed
from peers.protocol.traces import RecomputedTrace
from transport.frames import pack


def look_at(state: RunState, course: Course, now: float, fragment: int) -> None:
    """A member told its state of a fragment's newest version: have it computed if that is another one."""
    version = course.chain.base(fragment)
    asked = course.recomputations.get(fragment)
    own = state.roster.entries.get(state.me)
    if asked is not None and asked.version == version:
        return
    course.recomputations.pop(fragment, None)
    if own is None or not own.entered or not own.holds_state or state.rules.gossips:
        return
    told = {
        entry.digests[fragment]
        for entry in state.roster.entered_in(course.number)
        if entry.holds_state and fragment in entry.digests
    }
    if len({digest for at, digest in told if at == version}) < 2:
        return
    record = course.chain.record_of(version)
    if record is None or record.restores or course.manifest is None:
        return
    versions = course.chain.versions_at(record.parent, course.manifest.num_fragments)
    former = course.saves.agreed(fragment, versions[fragment]) if versions is not None else None
    if former is not None:
        course.recomputations[fragment] = Recomputation(version, now + state.rules.failure_timeout_s)
        state.outlet.send(now, state.me, Recompute(pack(record), former))


def take_answer(state: RunState, course: Course, member: bytes, message: Recomputed) -> bool:
    """What the host's own worker found; whether it was asked for. Anybody else's word counts for nothing."""
    asked = course.recomputations.get(message.fragment)
    if member != state.me or asked is None or asked.answered or asked.version != message.version:
        return False
    asked.answered = True
    asked.state = message.state if message.found else b""
    state.outlet.trace(
        RecomputedTrace(fragment=message.fragment, index=course.chain.index, found=message.found)
    )
    return True


def overdue(course: Course, now: float) -> list[int]:
    """Fragments for whose answer nobody waits any longer, each told once."""
    found = [f for f, each in course.recomputations.items() if not each.answered and now >= each.until]
    for fragment in found:
        course.recomputations[fragment].answered = True
    return found
