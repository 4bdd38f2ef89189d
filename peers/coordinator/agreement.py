"""Which state of a fragment members agree on, and where they do not.

Digests are compared, never believed. As long as all who speak tell one, it counts as agreed while they are
more than half of those who hold the version, or are about to. Where they tell several, the host computes the
version once more, and a member's state that comes out is the agreed one (`recomputing`). Then whoever differs
fetches it again. Until that is known, or if nobody hands out what it is computed from, there is a dispute: no
member's state is overwritten, no newcomer gets one, and no round of that fragment opens until members agree,
because others came, or the wrong ones left or were put out.

Most decide, and no dispute is left but a tie, in three cases. No step leads to the version (it is a first
state, or one that the run went back to or adopted). This host cannot compute (no torch, too little memory):
an ordinary fault of one worker must not stop its run. Or nobody holds what came out, and nobody is awaited
who might: then no honest member holds any of these states, and those who do could as well have told the same
one. Keeps S1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from peers.coordinator.course import Course, Dispute, Recomputation, RecomputationState
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.traces import DisputedTrace

TIE = "none is held by more than half"
UNSERVED = "nobody here hands out the state before, from which the right one is computed"
ANOTHER = "this host computed another one than any of them"


@dataclass(frozen=True, slots=True)
class Agreement:
    """What members say of one version of a fragment."""

    digest: bytes
    """Of the agreed state; empty without one."""
    donors: tuple[bytes, ...]
    """Active members that hold it."""
    dissenters: tuple[Entry, ...]
    """Members that hold another one."""
    camps: tuple[tuple[str, ...], ...]
    """Names of the members that hold each of the states in dispute; empty where there is no dispute."""


def agreement_on(
    entries: Iterable[Entry],
    fragment: int,
    version: bytes,
    awaited: Callable[[Entry], bool],
    recomputation: Recomputation | None = None,
) -> Agreement:
    """``entries`` are all who are here; an active one that did not say yet what it holds counts if it is
    ``awaited``. A ``recomputation`` of another version says nothing."""
    holders: dict[bytes, list[Entry]] = {}
    num_awaited = 0
    for entry in entries:
        held = entry.digests.get(fragment)
        if entry.holds_state and held is not None and held[0] == version:
            holders.setdefault(held[1], []).append(entry)
        elif entry.active and awaited(entry):
            num_awaited += 1
    num_voters = num_awaited + sum(map(len, holders.values()))
    computed = recomputation if recomputation is not None and recomputation.version == version else None
    right = computed.state if computed is not None and computed.state in holders else None
    most_decide = len(holders) == 1 or computed is None or _is_left_to_most(computed, num_awaited)
    for digest, alike in holders.items():
        if digest == right if right is not None else most_decide and 2 * len(alike) > num_voters:
            donors = tuple(entry.key for entry in alike if entry.active)
            others = tuple(e for d, each in holders.items() if d != digest for e in each)
            return Agreement(digest, donors, others, ())
    names = tuple(tuple(entry.full_name for entry in alike) for alike in holders.values())
    return Agreement(b"", (), (), names if len(names) > 1 else ())


def _is_left_to_most(computed: Recomputation, num_awaited: int) -> bool:
    """Of a recomputation that came to an end without a member's state."""
    if computed.at is RecomputationState.FOUND:
        return not num_awaited
    return computed.at is RecomputationState.FAILED


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
