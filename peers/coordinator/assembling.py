"""How a state is put together again from shares: which one those who are here have together, and who lacks.

What members say of their shares is checked: all who know a state tell the digests of all its fragments, and
their name must be the one that was noted when it was saved, or most of them must tell the same. Whoever waits
for the state is then told, fragment by fragment, who has it, and after that the records that follow. Decides
nothing about when, which is `restoring`'s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from peers.coordinator.course import Course
from peers.coordinator.exchange_mode import FragmentSources
from peers.coordinator.roster import Entry, HeldPart
from peers.coordinator.state import RunState
from peers.coordinator.unusable import usable
from peers.protocol.held import state_name
from peers.protocol.messages import CatchUp, Committed, Serve
from peers.protocol.shares import PartHeld
from transport.frames import pack

MAX_TRIES = 3
"""Fetches of a state that come to nothing, of each who is here, after which an older one is looked for."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A state of which members that are here have shares."""

    index: int
    head: bytes
    versions: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    holders: tuple[tuple[bytes, ...], ...]
    """By fragment: who has it."""

    @property
    def missing(self) -> list[int]:
        """Fragments that nobody here has."""
        return [fragment for fragment, those in enumerate(self.holders) if not those]


def told(state: RunState, now: float, course: Course, entry: Entry, message: PartHeld) -> None:
    """A member says what its disk has."""
    entry.tell_part(message)
    course.shared.num_failed.pop(message.head, None)


def failed(course: Course, entry: Entry) -> None:
    """A member could not put together what it was told to, if it was: shares may be there no more."""
    if entry.assembles:
        course.shared.num_failed[entry.assembles] += 1


def states_here(course: Course, entered: list[Entry]) -> list[Shared]:
    """The states of which there are shares here and on which the state of now builds, the newest first."""
    heads = {head for entry in entered for head in entry.parts}
    found = [shared for head in heads if (shared := _state_at(course, entered, head)) is not None]
    return sorted(found, key=lambda each: -each.index)


def newest_whole(course: Course, entered: list[Entry]) -> Shared | None:
    """The newest state of which those who are here have all fragments together, and hand them out."""
    tries = course.shared.num_failed
    whole = (each for each in states_here(course, entered) if not each.missing)
    return next((each for each in whole if tries[each.head] < MAX_TRIES * len(entered)), None)


def whole_at(course: Course, entered: list[Entry], head: bytes) -> Shared | None:
    """The state at a head, if those who are here have all its fragments together."""
    found = _state_at(course, entered, head)
    return found if found is not None and not found.missing else None


def _state_at(course: Course, entered: list[Entry], head: bytes) -> Shared | None:
    index, num_fragments = course.chain.index_of(head), _num_fragments(course)
    if index < 0 or not course.chain.stands(index):
        return None
    named = {}
    for entry in entered:
        part = entry.parts.get(head)
        if part is not None and len(part.states) == num_fragments:
            named[entry.key] = (_name_of(head, index, part), part)
    wanted = course.saves.noted(head) or _majority([name for name, _ in named.values()])
    right = {key: part for key, (name, part) in named.items() if name == wanted}
    if not right:
        return None
    states = next(iter(right.values())).states
    every = range(num_fragments)
    return Shared(
        index,
        head,
        tuple(states[f][0] for f in every),
        tuple(states[f][1] for f in every),
        tuple(tuple(key for key, part in right.items() if f in part.here) for f in every),
    )


def _name_of(head: bytes, index: int, part: HeldPart) -> bytes:
    states = [part.states[fragment] for fragment in sorted(part.states)]
    return state_name(index, head, [version for version, _ in states], [digest for _, digest in states])


def _majority(names: list[bytes]) -> bytes:
    name, count = Counter(names).most_common(1)[0] if names else (b"", 0)
    return name if 2 * count > len(names) else b""


def _num_fragments(course: Course) -> int:
    return course.manifest.num_fragments if course.manifest is not None else 0


def assemble(state: RunState, course: Course, now: float, found: Shared, *, follow: bool = True) -> bool:
    """Have all who wait for the state fetch this one, and ``follow`` the records after it; whether there is
    somebody. Who could not is told again a failure timeout later."""
    waiting = state.roster.waiting_in(course.number)
    sources = [
        (f, digest, list(those))
        for f, (digest, those) in enumerate(zip(found.digests, found.holders, strict=True))
    ]
    for entry in waiting:
        is_due = now >= max(entry.served_from, entry.assembled_at + state.rules.failure_timeout_s)
        good = usable(entry, now, sources) if is_due else None
        if good is None:
            continue
        entry.follow_donors()
        entry.assembles, entry.assembled_at = found.head, now
        send_donors(state, now, entry, good, found.versions, found.head, found.index)
        for record in (course.chain.after(found.head) if follow else None) or ():
            state.outlet.send(now, entry.key, Committed(pack(record)))
    return bool(waiting)


def send_donors(
    state: RunState,
    now: float,
    entry: Entry,
    sources: FragmentSources,
    versions: tuple[bytes, ...],
    head: bytes,
    index: int,
) -> None:
    """Tell a member from whom it gets which state of each fragment, so that it is at ``head``."""
    for fragment, digest, donors in sources:
        remaining = len(sources) - fragment - 1
        message = CatchUp(fragment, versions[fragment], digest, tuple(donors), head, index, remaining)
        # Donors hear of it before they can hear of the next commit, so the state is still theirs.
        for donor in donors:
            state.outlet.send(now, donor, Serve(fragment, digest))
        state.outlet.send(now, entry.key, message)


def lacks(state: RunState, course: Course, here: list[Entry]) -> dict[int, list[Entry]]:
    """By fragment of the newest covered state that nobody here has: members that are away and have it."""
    covered, num_fragments = course.saves.covered(course.chain), _num_fragments(course)
    if covered is None:
        return {}
    found = _state_at(course, here, covered.head)
    missing = found.missing if found is not None else list(range(num_fragments))
    had = course.saves.shares(covered.head, num_fragments)
    entries = state.roster.entries
    away = {key: each for key, each in had.items() if not entries[key].entered and not entries[key].kicked}
    return {f: [entries[key] for key, fragments in away.items() if f in fragments] for f in missing}
