"""Which states members hash, so that their digests are known where somebody goes by them.

At every commit members tell checks, which cost nothing and bind nobody. Digests are asked for of every
version as long as somebody waits for the state, and as long as several but fewer than `FEW` hold it, if this
host computes disputed steps: there no majority could say later which state was agreed on, so each member is
bound to its word before the next round of that fragment opens. They are asked for of one version where a disk
is about to have it, and of the one before a version in dispute. Members hash beside training; what they tell
is compared (`agreement`, and `majority` of a version that is not the newest). Keeps S1, and DU2 on the
coordinator's side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.naming import NameEvery, NameState
from peers.protocol.record import GENESIS
from transport.effects import NEVER

FEW = 4
"""From so many holders on most of them can say afterwards which state they had agreed on."""
_TIMEOUTS = 2
"""Failure timeouts that naming a state may take, beside the time of its bytes."""
_IN_LINE = 2
"""Versions of a fragment that a member hashes one after the other: an old one, and the newest."""
_HASHED_PER_S = 20 << 20
"""Bytes that the slowest machine hashes in a second beside its training."""
_BYTES_PER_ELEMENT = 16
"""Of a state, at the most that outer optimizers keep."""


def give_orders(state: RunState, course: Course, now: float) -> None:
    """Tell members whether to name every version; those of whom that was wanted and is not any more too."""
    wanted = _wanted(state, course, now)
    for entry in wanted:
        _order(state, now, entry, on=True)
    for key in sorted(course.name_every - {entry.key for entry in wanted}):
        _order(state, now, state.roster.entries[key], on=False)
    course.name_every = {entry.key for entry in wanted}
    if not _lacks_names(state, course, now):
        course.unnamed_since = None
    elif course.unnamed_since is None:
        course.unnamed_since = now


def _lacks_names(state: RunState, course: Course, now: float) -> bool:
    """Whether somebody waits for the state, and most have yet to name a fragment's newest version."""
    if state.rules.gossips or course.manifest is None or course.chain.head == GENESIS:
        return False
    is_waiting = any(now >= entry.served_from for entry in state.roster.waiting_in(course.number))
    return is_waiting and not all(name for _, name, _ in state.mode.sources(course))


def _order(state: RunState, now: float, entry: Entry, *, on: bool) -> None:
    if entry.entered and entry.names_every != on:
        entry.names_every, entry.names_since = on, now
        state.outlet.send(now, entry.key, NameEvery(on))


def _wanted(state: RunState, course: Course, now: float) -> list[Entry]:
    if course.manifest is None or course.chain.head == GENESIS:
        return []
    waiting = state.roster.waiting_in(course.number)
    if state.rules.gossips:
        return [donor] if waiting and (donor := _next_donor(state, course, now)) else []
    holders = [entry for entry in state.roster.entered_in(course.number) if entry.holds_state]
    return holders if waiting or _are_few(state, course) else []


def _are_few(state: RunState, course: Course) -> bool:
    """Whether all who hold a state, of whatever version, are to be bound by their word. A round must never
    wait for a name that nobody was told to find."""
    num_holders = sum(entry.holds_state for entry in state.roster.entered_in(course.number))
    return bool(state.recompute_bytes) and 2 <= num_holders < FEW


def _next_donor(state: RunState, course: Course, now: float) -> Entry | None:
    """With gossip: whose replica is copied next. One that takes too long to name it is passed over."""
    donor = state.mode.next_donor(course)
    if donor is not None and donor.names_every and now > donor.names_since + patience_s(state, course):
        course.num_donations += 1
        donor = state.mode.next_donor(course)
    return donor


def patience_s(state: RunState, course: Course, fragment: int | None = None) -> float:
    """How long hashing a fragment's state may take, or all of them."""
    elements = course.manifest.elements if course.manifest is not None else ()
    num_elements = sum(elements) if fragment is None else elements[fragment]
    return _TIMEOUTS * state.rules.failure_timeout_s + _BYTES_PER_ELEMENT * num_elements / _HASHED_PER_S


# -- the newest version ---------------------------------------------------------------------------


def unbound(state: RunState, course: Course, fragment: int) -> list[Entry]:
    """Members that hold the newest version of a fragment and have not named it yet, where each is to be bound
    by its word before a round opens."""
    if state.rules.gossips or not _are_few(state, course):
        return []
    version = course.chain.base(fragment)
    entered = state.roster.entered_in(course.number)
    holders = [e for e in entered if e.holds_state and e.checks.get(fragment, (b"", b""))[0] == version]
    if len(holders) < 2:
        return []
    return [e for e in holders if not e.out_of_sight and version not in e.names.get(fragment, {})]


def binds(state: RunState, course: Course, now: float, fragment: int) -> bool:
    """Whether a round of a fragment has to wait for names: of those who are to be bound by them, or, where
    hashing takes longer than rounds do, so that somebody who has waited for the state for long gets it."""
    if course.unnamed_since is not None:
        waited_s = now - course.unnamed_since - state.rules.failure_timeout_s
        if _is_in_window(waited_s, _IN_LINE * patience_s(state, course)):
            return True
    return bool(unbound(state, course, fragment)) and now < _ends(state, course, now, fragment)


def _is_in_window(elapsed_s: float, window_s: float) -> bool:
    """Windows come again, after pauses that double: whoever names nothing holds up less and less."""
    begins, pause_s = 0.0, window_s
    while elapsed_s >= begins:
        if elapsed_s < begins + window_s:
            return True
        begins, pause_s = begins + window_s + pause_s, 2 * pause_s
    return False


def overdue(state: RunState, course: Course, now: float) -> list[Entry]:
    """Members that were waited for long enough, where others have named the version."""
    found: list[Entry] = []
    for fragment in list(course.unbound_since):
        silent = unbound(state, course, fragment)
        if not silent:
            course.unbound_since.pop(fragment, None)
        elif now >= _ends(state, course, now, fragment):
            version = course.chain.base(fragment)
            entered = state.roster.entered_in(course.number)
            if any(entry.holds_state and entry.name_of(fragment, version) for entry in entered):
                found += silent
    return found


def _ends(state: RunState, course: Course, now: float, fragment: int) -> float:
    """When the wait for names of the newest version ends."""
    version = course.chain.base(fragment)
    since = course.unbound_since.get(fragment)
    if since is None or since[0] != version:
        since = course.unbound_since[fragment] = (version, now)
    return since[1] + patience_s(state, course, fragment)


# -- one version ----------------------------------------------------------------------------------


def ask(state: RunState, course: Course, now: float, fragment: int, version: bytes) -> None:
    """Have all who may hold a version name it; each is asked once, and again if it should be done by now."""
    pause_s, wanted = patience_s(state, course, fragment), (fragment, version)
    for entry in _holders(state, course):
        if version in entry.names.get(fragment, ()):
            continue
        if now >= entry.asked_names.get(wanted, NEVER) + pause_s:
            entry.ask_name(now, fragment, version)
            state.outlet.send(now, entry.key, NameState(fragment, version))


def majority(
    state: RunState, course: Course, fragment: int, version: bytes, false: Collection[bytes] = ()
) -> bytes:
    """What more than half of those who may hold a version name it; empty without one. Who said that it holds
    it no more, or named one that is ``false``, does not count."""
    told = [entry.names.get(fragment, {}).get(version) for entry in _holders(state, course)]
    names = Counter(entry.name_of(fragment, version) for entry in _holders(state, course))
    del names[b""]
    for name in false:
        del names[name]
    num_voters = sum(names.values()) + told.count(None)
    best = max(names, key=lambda name: (names[name], name), default=b"")
    return best if best and 2 * names[best] > num_voters else b""


def awaits_names(state: RunState, course: Course, now: float, fragment: int, version: bytes) -> bool:
    """Whether somebody who was asked for a version may still name it."""
    ends_after = patience_s(state, course, fragment)
    asked = [entry.asked_names.get((fragment, version)) for entry in _holders(state, course)]
    return any(since is not None and now < since + ends_after for since in asked)


def _holders(state: RunState, course: Course) -> list[Entry]:
    entered = state.roster.entered_in(course.number)
    return [entry for entry in entered if entry.holds_state and not entry.out_of_sight]
