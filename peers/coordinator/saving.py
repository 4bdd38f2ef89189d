"""How the coordinator takes members' word for what their disks have (`peers.coordinator.saves`).

What differs from what was agreed on is told and not noted. A member that comes back with another state than
was noted at its head fetches the state anew: it loaded something else (DU2).
"""

from __future__ import annotations

from peers.coordinator import naming, sharing
from peers.coordinator.course import Course
from peers.coordinator.journal import StateSaved
from peers.coordinator.roster import Entry
from peers.coordinator.saves import SavedState
from peers.coordinator.state import RunState
from peers.protocol.fields import DETAIL_BYTES, cut
from peers.protocol.held import state_name
from peers.protocol.messages import Refused, Saved, SaveNow
from peers.protocol.naming import Saving
from peers.protocol.orders import Obeyed
from peers.protocol.traces import SavedOtherTrace, SavedTrace
from transport.frames import pack


def saved(state: RunState, now: float, course: Course, entry: Entry, message: Saved) -> None:
    """A member says what its disk has."""
    if state.rules.gossips:
        _believe(state, course, entry, message)
        return
    said = SavedState(message.index, message.head, message.state, message.keeps, message.fragments)
    course.saves.claims[entry.key] = said
    _look_at_claim(state, course, entry.key)


def _believe(state: RunState, course: Course, entry: Entry, message: Saved) -> None:
    """With gossip each has a replica of its own. That a member has one on its disk is journaled, once: it is
    what a later life must know, for there may be a thousand members who save every ten seconds."""
    known = course.saves.by_member.get(entry.key)
    if message.head != course.chain.head or (known is not None and message.index <= known.index):
        return
    noted = StateSaved(entry.key, message.index, message.head, message.state, message.keeps, course.number)
    if known is None:
        state.outlet.store(pack(noted))
    course.saves.believe(noted)
    state.outlet.trace(SavedTrace(peer=entry.key, peer_name=entry.name, index=message.index))


def applied(state: RunState, course: Course, fragment: int) -> None:
    """Another member told its state of a fragment's newest version: remember what most say."""
    found, version = state.mode.agreed(course, fragment), course.chain.base(fragment)
    if found.check:
        course.saves.agree_on_check(fragment, version, found.check)
    agree(state, course, fragment, version, found.name)


def agree(state: RunState, course: Course, fragment: int, version: bytes, name: bytes) -> None:
    """Most say that this is the digest of a version, if it is not empty."""
    if name and course.saves.agree(fragment, version, name):
        for member in list(course.saves.claims):
            _look_at_claim(state, course, member)


def begun(state: RunState, now: float, course: Course, entry: Entry, message: Saving) -> None:
    """A member begins to write a state to its disk: have all who hold it name it while they do."""
    num_fragments = course.manifest.num_fragments if course.manifest is not None else 0
    versions = course.chain.versions_at(message.head, num_fragments)
    if state.rules.gossips or versions is None:
        return
    for fragment, version in enumerate(versions):
        if course.saves.agreed(fragment, version) is None and _may_be_held(course, fragment, version):
            naming.ask(state, course, now, fragment, version)


def _may_be_held(course: Course, fragment: int, version: bytes) -> bool:
    """Members keep the newest version and the one before it. To ask for older ones would have them tell the
    coordinator of those, as often as somebody likes, until it remembers none that counts."""
    newest = course.chain.base(fragment)
    record = course.chain.record_of(newest)
    before = course.chain.versions_at(record.parent, fragment + 1) if record is not None else None
    return version == newest or (before is not None and version == before[fragment])


def holds_another(course: Course, entry: Entry) -> bool:
    """Whether a member told other digests than are noted of the head that it is at; never with gossip, for
    nothing is noted then."""
    noted = course.saves.noted(entry.head)
    if noted is None or course.manifest is None or len(entry.checks) < course.manifest.num_fragments:
        return False
    versions = [version for _, (version, _) in sorted(entry.checks.items())]
    names = [entry.name_of(fragment, version) for fragment, version in enumerate(versions)]
    if not all(names):
        return False
    return state_name(course.chain.index_of(entry.head), entry.head, versions, names) != noted


def _look_at_claim(state: RunState, course: Course, member: bytes) -> None:
    claim, saves, chain = course.saves.claims[member], course.saves, course.chain
    if course.manifest is None or chain.index_of(claim.head) < 0:
        del saves.claims[member]
        return
    name = saves.name_of(chain, claim.head, course.manifest.num_fragments)
    if name is None:
        return
    del saves.claims[member]
    who = state.roster.entries[member].name
    if (name, chain.index_of(claim.head)) != (claim.state, claim.index):
        state.outlet.trace(SavedOtherTrace(peer=member, peer_name=who, index=claim.index))
    elif claim.is_news_after(saves.by_member.get(member)):
        noted = StateSaved(
            member, claim.index, claim.head, claim.state, claim.keeps, course.number, claim.fragments
        )
        state.outlet.store(pack(noted))
        saves.replay(chain, noted)
        state.outlet.trace(SavedTrace(peer=member, peer_name=who, index=claim.index))
        sharing.look_at(state, course)


def ask_for_checkpoints(state: RunState, now: float) -> Refused | Obeyed:
    """The owner wants the newest commit on the members' disks, or with gossip the replica of each: ask all
    who hold a state."""
    if state.rules.copies:
        for course in state.courses.values():
            course.shared.is_wanted = True
        return Obeyed("the next commit will be saved, of which each worker writes its share")
    names = []
    for course in state.courses.values():
        for entry in state.roster.active_in(course.number):
            state.outlet.send(now, entry.key, SaveNow(course.chain.index))
            names.append(entry.name)
    if not names:
        return Refused("none", "no worker here holds the run's state, so none can save it")
    what = "the replica of each" if state.rules.gossips else f"commit {state.courses[0].chain.index}"
    told = f"asked to save {what}: {', '.join(names)}"
    return Obeyed(cut(f"{told}; diloco status tells on whose disks it is", DETAIL_BYTES))
