"""How a run goes on when nobody holds its head: from whom, after which wait, or from where its owner says.

As long as somebody comes nearer to the head, by results of a disk or of others, or has just come back,
nothing is decided. Then the furthest state that a live member holds is restored, and a record says so; but
where a member that is away is known to have more on its disk, it is waited for, for `RESTORE_WAIT_TIMEOUTS`.
Where nobody holds any state the run waits for ever, for nothing is given up that its owner did not give up.
Keeps S2, L4 and DU3.
"""

from __future__ import annotations

from peers.coordinator import assembling
from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.errors import ResumeError
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.messages import Committed
from peers.protocol.record import GENESIS, Record
from peers.protocol.traces import RestoredTrace, SeedLostTrace, StateLostTrace
from transport.frames import pack

RESTORE_WAIT_TIMEOUTS = 30
"""Failure timeouts for which a member is waited for whose disk is known to have more than all who are here
hold."""


def restore_wait_s(state: RunState) -> float:
    """The same in seconds."""
    return RESTORE_WAIT_TIMEOUTS * state.rules.failure_timeout_s


def restore_if_lost(state: RunState, course: Course, now: float) -> None:
    """Nobody may hold the head: decide, in time, from which state the run goes on."""
    entered = state.roster.entered_in(course.number)
    if not entered or not is_lost(course, entered):
        course.holderless_since, course.best_here = None, -1
        return
    _tell_again(state, course, now, entered)
    best = furthest(course, entered)
    index = course.chain.index_of(best.head) if best else -1
    if course.holderless_since is None or index > course.best_here:
        course.holderless_since, course.best_here = now, index
    if any(entry.assembles for entry in entered):
        return  # it comes to a state by the shares of others, or says that it cannot
    waited_s = now - course.holderless_since
    if _coming_to(course, entered) > index and waited_s < restore_wait_s(state):
        return  # somebody applies what follows
    arrived_at = max((e.entered_at for e in entered if e.holds_state or e.parts), default=0.0)
    settled_s = min(waited_s, now - arrived_at)
    if _assemble_what_is_here(state, course, now, entered, index, waited_s, settled_s):
        return
    if settled_s < 2 * state.rules.failure_timeout_s and waited_s < restore_wait_s(state):
        return
    if best is None and course.has_moved:
        _tell_lost(state, course)
    elif away_with_more(state, course, index) and waited_s < restore_wait_s(state):
        return
    elif best is None:
        ask_for_another_first_state(state, course)
    else:
        restore(state, course, now, best, f"nobody here holds commit {course.chain.index}")


def _assemble_what_is_here(
    state: RunState,
    course: Course,
    now: float,
    entered: list[Entry],
    index: int,
    waited_s: float,
    settled_s: float,
) -> bool:
    """Members that are here may have shares of a state beyond that index, and all of it together: at once if
    none is known that is newer, else in time, have them go on from it."""
    found = assembling.newest_whole(course, entered)
    if found is None or found.index <= index:
        return False
    if found.index < course.saves.covered_index(course.chain):
        awaits = away_with_more(state, course, found.index) and waited_s < restore_wait_s(state)
        if awaits or settled_s < 2 * state.rules.failure_timeout_s:
            return False
    return assembling.assemble(state, course, now, found)


def _tell_again(state: RunState, course: Course, now: float, entered: list[Entry]) -> None:
    """Who lacked a result is told once more what follows its head, once somebody entered who may have it."""
    newest = max(entry.order for entry in entered)
    for entry in entered:
        if entry.stranded and entry.holds_state and entry.told_order < newest:
            entry.stranded, entry.told_order = False, newest
            for record in course.chain.after(entry.head) or ():
                state.outlet.send(now, entry.key, Committed(pack(record)))


def is_lost(course: Course, entered: list[Entry]) -> bool:
    """Whether nobody who is here holds the head, or reported to hold its result."""
    head = course.chain.head
    return head != GENESIS and not any(e.holds_state and head in (e.head, e.will_hold) for e in entered)


def _coming_to(course: Course, entered: list[Entry]) -> int:
    """How far those come who hold a state and have told that they apply what follows it."""
    indexes = [course.chain.index_of(e.will_hold) for e in entered if e.holds_state]
    return max((index for index in indexes if course.chain.stands(index)), default=-1)


def furthest(course: Course, entered: list[Entry]) -> Entry | None:
    """The member that holds the newest state which the run still builds on."""
    indexes = {e: course.chain.index_of(e.head) for e in entered if e.holds_state}
    standing = [e for e, index in indexes.items() if index >= 0 and course.chain.stands(index)]
    return max(standing, key=indexes.__getitem__, default=None)


def away_with_more(state: RunState, course: Course, index: int) -> list[Entry]:
    """Members that are not here and whose disks are known to lead beyond that index, the furthest first."""
    reach = {key: course.saves.reach(course.chain, key) for key in course.saves.by_member}
    known = [state.roster.entries[key] for key, upto in reach.items() if upto > index]
    away = [entry for entry in known if not entry.entered and not entry.kicked]
    return sorted(away, key=lambda entry: -reach[entry.key])


def coming_nearer(course: Course, entered: list[Entry], index: int) -> tuple[list[Entry], int]:
    """Members that are here and follow the records by what their own disks are known to have, beyond that
    index, and how far the furthest comes."""
    reach = {
        entry: course.saves.reach(course.chain, entry.key)
        for entry in entered
        if entry.holds_state and not entry.stranded
    }
    upto = max(reach.values(), default=-1)
    return [entry for entry, there in reach.items() if there == upto > index], upto


def resumes(state: RunState, course: Course, now: float) -> bool:
    """Whether the owner wants the run to go on from an earlier record, which nobody who is here holds yet."""
    if state.resume is None or course.number:
        return False
    head = course.chain.head_at(state.resume)
    entered = state.roster.entered_in(course.number)
    holder = next((entry for entry in entered if entry.holds_state and entry.head == head), None)
    if holder is None:
        found = assembling.whole_at(course, entered, head) if head is not None else None
        if found is not None:
            assembling.assemble(state, course, now, found, follow=False)
        return True
    state.resume = None
    restore(state, course, now, holder, "its owner gives up what came after it")
    return False


def restore(state: RunState, course: Course, now: float, holder: Entry, reason: str) -> None:
    """Go on from the state that a member holds."""
    chain = course.chain
    told = RestoredTrace(chain.head, chain.index, holder.key, chain.index_of(holder.head), reason)
    state.outlet.trace(told)
    for current in list(course.rounds.values()):
        state.abort(now, course, current, "the state that it builds on is lost")
    course.holderless_since, course.best_here, course.told_lost = None, -1, b""
    record = Record(
        parent=chain.head,
        index=chain.index + 1,
        fragment=ALL_FRAGMENTS,
        epoch=state.roster.epoch,
        serial=state.next_serial(),
        chunk_elements=0,
        members=(),
        weights=(),
        result=holder.head,
        course=course.number,
    )
    state.commit(now, course, record)


def ask_for_another_first_state(state: RunState, course: Course) -> None:
    """Nothing is built on the first state yet, and it is lost or of no use."""
    state.outlet.trace(SeedLostTrace(head=course.chain.head))
    state.begin_run(course, GENESIS)
    course.holderless_since = course.seed = None
    for entry in state.roster.entered_in(course.number):
        entry.give_up_state()


def _tell_lost(state: RunState, course: Course) -> None:
    if course.told_lost != course.chain.head:
        course.told_lost = course.chain.head
        state.outlet.trace(StateLostTrace(head=course.chain.head, index=course.chain.index))


def resume_from(state: RunState, index: int) -> None:
    """The owner wants the run to go on from that record, not from later ones. Raises `ResumeError`."""
    chain = state.courses[0].chain
    if len(state.courses) > 1:
        raise ResumeError(
            f"each of the run's {len(state.courses)} stages has commits of its own, and which one's commit "
            f"{index} is meant cannot be said yet"
        )
    if state.rules.gossips:
        raise ResumeError(
            "in a run that gossips each worker goes on from a replica of its own: diloco join --resume "
            f"{index} begins with that worker's of outer step {index}, or the one before"
        )
    if not 0 <= index <= chain.index:
        raise ResumeError(f"the run cannot go on from commit {index}: it has {chain.index} commits")
    if chain.head_at(index) is None:
        raise ResumeError(
            f"the run cannot go on from commit {index}: of commits so old only those are known that a "
            "worker's disk has"
        )
    state.resume = index if index < chain.index else None
