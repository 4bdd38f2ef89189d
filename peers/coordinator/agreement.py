"""Which state of a fragment members agree on, and where they do not.

What they tell is compared, never believed: the check of a state at once, and its digest once it is wanted and
hashed (`naming`). As long as all who speak tell one, it counts as agreed while they are more than half of
those who hold the version, or are about to; its digest counts, and a member is a donor, once more than half
have named it. Where they tell several, the host computes the version once more, and a member's state that
comes out is the agreed one (`recomputing`). Then whoever differs fetches it again. Until that is known, or if
nobody hands out what it is computed from, there is a dispute: no member's state is overwritten, no newcomer
gets one, and no round of that fragment opens until members agree, because others came, or the wrong ones left
or were put out.

Most decide, and no dispute is left but a tie, in three cases. No step leads to the version (it is a first
state, or one that the run went back to or adopted). This host cannot compute (no torch, too little memory):
an ordinary fault of one worker must not stop its run. Or nobody holds what came out, and nobody is awaited
who might: then no honest member holds any of these states, and those who do could as well have told the same
one. Keeps S1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from peers.coordinator.course import Recomputation, RecomputationState
from peers.coordinator.roster import Entry


@dataclass(frozen=True, slots=True)
class Agreement:
    """What members say of one version of a fragment."""

    check: bytes = b""
    """Of the agreed state; empty without one."""
    name: bytes = b""
    """Its digest; empty as long as too few have told one."""
    donors: tuple[bytes, ...] = ()
    """Active members that hold it, and told its digest."""
    dissenters: tuple[Entry, ...] = ()
    """Members that hold another one."""
    camps: tuple[tuple[str, ...], ...] = ()
    """Names of the members that hold each of the states in dispute; empty where there is no dispute."""


State = tuple[bytes, bytes]
"""A check, and a digest where one is known."""


def states_told(
    entries: Iterable[Entry], fragment: int, version: bytes, computed: State | None = None
) -> dict[State, list[Entry]]:
    """Who holds which state of a version. One check and two digests are two states: something went wrong, or
    is made up, and whoever told that check and no digest may hold either, and is left out; unless the state
    of that check was ``computed``, for then it holds that one."""
    alike: dict[bytes, list[Entry]] = {}
    for entry in entries:
        held = entry.checks.get(fragment)
        if entry.holds_state and held is not None and held[0] == version:
            alike.setdefault(held[1], []).append(entry)
    found: dict[State, list[Entry]] = {}
    for check, those in alike.items():
        named = [(entry, entry.name_of(fragment, version)) for entry in those]
        if computed is not None and check == computed[0]:
            known = computed[1] if any(name == computed[1] for _, name in named) else b""
            for entry, name in named:
                told = known if name in (b"", known) else name
                found.setdefault((check, told), []).append(entry)
            continue
        names = {name for _, name in named if name}
        if len(names) < 2:
            found[check, names.pop() if names else b""] = those
            continue
        for entry, name in named:
            if name:
                found.setdefault((check, name), []).append(entry)
    return found


def differ(entries: Iterable[Entry], fragment: int, version: bytes) -> bool:
    """Whether several states of a version are told (`states_told`)."""
    check: bytes | None = None
    names: set[bytes] = set()
    for entry in entries:
        held = entry.checks.get(fragment)
        if not entry.holds_state or held is None or held[0] != version:
            continue
        name = entry.name_of(fragment, version)
        if name:
            names.add(name)
        if len(names) > 1 or (check is not None and held[1] != check):
            return True
        check = held[1]
    return False


def agreement_on(
    entries: Iterable[Entry],
    fragment: int,
    version: bytes,
    awaited: Callable[[Entry], bool],
    recomputation: Recomputation | None = None,
) -> Agreement:
    """``entries`` are all who are here; an active one that did not say yet what it holds counts if it is
    ``awaited``. A ``recomputation`` of another version says nothing."""
    here = list(entries)
    computed = recomputation if recomputation is not None and recomputation.version == version else None
    found = (computed.check, computed.state) if computed is not None and computed.state else None
    states = states_told(here, fragment, version, found)
    told = {entry.key for those in states.values() for entry in those}
    num_awaited = sum(entry.key not in told and entry.active and awaited(entry) for entry in here)
    num_voters = num_awaited + len(told)
    right = next((state for state in states if computed is not None and computed.is_right(state)), None)
    most_decide = len(states) == 1 or computed is None or _is_left_to_most(computed, num_awaited)
    for state, alike in states.items():
        if state == right if right is not None else most_decide and 2 * len(alike) > num_voters:
            named = [entry for entry in alike if entry.name_of(fragment, version)]
            is_named = right is not None or 2 * len(named) > num_voters
            return Agreement(
                check=state[0],
                name=state[1] if is_named else b"",
                donors=tuple(entry.key for entry in named if entry.active) if is_named else (),
                dissenters=tuple(e for other, each in states.items() if other != state for e in each),
            )
    names = tuple(tuple(entry.full_name for entry in alike) for alike in states.values())
    return Agreement(camps=names if len(names) > 1 else ())


def _is_left_to_most(computed: Recomputation, num_awaited: int) -> bool:
    """Of a recomputation that came to an end without a member's state."""
    if computed.at is RecomputationState.FOUND:
        return not num_awaited
    return computed.at is RecomputationState.FAILED
