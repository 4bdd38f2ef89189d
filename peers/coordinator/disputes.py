"""Whether members hold different states of a fragment, and what is told of that.

Which state is right is found out in `agreement` and `recomputing`.
"""

from __future__ import annotations

from peers.coordinator.course import Course, Dispute, Recomputation, RecomputationState
from peers.coordinator.state import RunState
from peers.protocol.traces import DisputedTrace

TIE = "none is held by more than half"
UNSERVED = "nobody here hands out the state before, from which the right one is computed"
ANOTHER = "this host computed another one than any of them"


def disputed(state: RunState, course: Course, fragment: int) -> bool:
    """Whether members hold different states of a fragment, and which is right is not known (yet). What
    somebody has to end is told once for each version."""
    camps, version = state.mode.disputed(course, fragment), course.chain.base(fragment)
    known = course.recomputations.get(fragment)
    computed = known if known is not None and known.version == version else None
    computes = computed is not None and computed.pending and not computed.num_tries
    if not camps or computes:
        course.disputes.pop(fragment, None)
        return computes  # also if it was taken back: who was wrong is found out
    before = course.disputes.get(fragment)
    if before is None or before.version != version:
        told = " against ".join(", ".join(names) for names in camps)
        why = _why(computed)
        course.disputes[fragment] = Dispute(version, told, why)
        trace = DisputedTrace(fragment=fragment, index=course.chain.index, camps=told, why=why)
        state.outlet.trace(trace)
    return True


def _why(computed: Recomputation | None) -> str:
    if computed is None or computed.at is RecomputationState.FAILED:
        return TIE
    return ANOTHER if computed.at is RecomputationState.FOUND else UNSERVED
