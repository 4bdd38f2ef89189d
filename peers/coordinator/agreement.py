"""Which state of a fragment members agree on, and where they do not.

Digests are compared, never believed. Where the host's own worker computed the version once more and a
member holds that state, it is the agreed one (`recomputing`). Otherwise a state counts as agreed while more
than half of those who hold the version, or are about to, tell its digest. Then whoever differs fetches it
again. Where no state has so many, nobody can tell who is wrong: that is a dispute. No member's state is
overwritten then, no newcomer gets one,
and no round of that fragment opens until enough members agree, because others came, or the wrong ones left or
were put out. Keeps S1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from peers.coordinator.course import Course, Recomputation
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.traces import DisputedTrace


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
    decided = computed is not None and computed.answered and computed.state in holders
    pending = computed is not None and not computed.answered and len(holders) > 1
    for digest, alike in holders.items():
        right = computed is not None and digest == computed.state
        if right if decided else not pending and 2 * len(alike) > num_voters:
            donors = tuple(entry.key for entry in alike if entry.active)
            others = tuple(e for d, each in holders.items() if d != digest for e in each)
            return Agreement(digest, donors, others, ())
    names = tuple(tuple(entry.full_name for entry in alike) for alike in holders.values())
    return Agreement(b"", (), (), names if len(names) > 1 else ())


def disputed(state: RunState, course: Course, fragment: int) -> bool:
    """Whether members hold different states of a fragment, and none is held by most of them; told once for
    each version."""
    camps, version = state.mode.disputed(course, fragment), course.chain.base(fragment)
    if not camps:
        course.disputes.pop(fragment, None)
        return False
    computed = course.recomputations.get(fragment)
    if computed is not None and computed.version == version and not computed.answered:
        return True
    if course.disputes.get(fragment) != version:
        course.disputes[fragment] = version
        told = " against ".join(", ".join(names) for names in camps)
        state.outlet.trace(DisputedTrace(fragment=fragment, index=course.chain.index, camps=told))
    return True
