"""How the coordinator brings newcomers and stragglers to the shared state.

The very first state comes from one member that is named to seed the run. Everyone else follows
commit records if they are close enough, or fetches the state from donors: active members that
report the agreed digest (so one that has not caught up is never a donor). What happens when nobody who
holds the head is left is in `restoring`. Keeps S1, S9, L3 and L4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from peers.coordinator import assembling, catching_up, naming, recomputing, restoring, rounds, saving
from peers.coordinator.adoption import is_newer
from peers.coordinator.agreement import differ
from peers.coordinator.course import Course
from peers.coordinator.exchange_mode import FragmentSources
from peers.coordinator.roster import Entry, MemberState
from peers.coordinator.state import RunState
from peers.coordinator.unusable import MAX_DOUBLINGS, note, of_no_use, usable
from peers.protocol.fields import cut
from peers.protocol.messages import Applied, Applying, CaughtUp, Committed, NeedState, Seed, Unusable
from peers.protocol.naming import StateNamed
from peers.protocol.record import GENESIS, Record
from peers.protocol.traces import (
    ActiveTrace,
    LeftBehindTrace,
    NeedsStateTrace,
    ParityTrace,
    SavedOtherTrace,
    SeedTrace,
    UnusableTrace,
)
from transport.frames import pack


def handlers(state: RunState) -> dict[type, Callable[[float, Course, Entry, Any], None]]:
    """By what members say of the states that they hold."""
    return {
        Applied: partial(applied, state),
        Applying: partial(applying, state),
        CaughtUp: partial(caught_up, state),
        NeedState: partial(needs_state, state),
        Unusable: partial(unusable, state),
        StateNamed: partial(named, state),
    }


def start_following(state: RunState, course: Course, now: float, entry: Entry) -> None:
    """A member entered: send it the records that follow its head, or let it wait for the state. Either way it
    knows by then which of its contributions are in a record (S4)."""
    if state.rules.gossips:
        _take_first_head(state, course, entry)
    if now < entry.served_from and state.roster.active_in(course.number):
        entry.holds_state = False  # its state was found wrong again and again
    following = _records_for(state, course, entry)
    if following is None and is_newer(course, entry) and not course.committed:
        return  # it may be the coordinator that is behind
    if following is None:
        for counted in course.chain.counted(entry.key) if entry.holds_state else ():
            state.outlet.send(now, entry.key, counted)
        entry.wait_for_state()
        return
    for record in following:
        state.outlet.send(now, entry.key, Committed(pack(record)))


def _take_first_head(state: RunState, course: Course, entry: Entry) -> None:
    """With gossip the first state is but a name, and no records follow it: where the journal that had it is
    lost, a member that comes back tells it."""
    unknown = course.chain.head == GENESIS and course.seed is None and not state.forked
    if unknown and entry.holds_state and entry.head != GENESIS:
        state.begin_run(course, entry.head)


def _records_for(state: RunState, course: Course, entry: Entry) -> list[Record] | None:
    """The records that lead from a member's state to the head; None if it is better to fetch the whole state,
    or if it must. What its own disk leads to it need not fetch."""
    following = course.chain.after(entry.head) if entry.holds_state else None
    if following is None:
        return None
    if state.resume is not None:
        return [record for record in following if record.index <= state.resume]
    known = max(course.chain.index_of(entry.head), course.saves.reach(course.chain, entry.key))
    far = course.chain.index - known > state.limits.follow_records
    return None if far and state.roster.active_in(course.number) else following


def applied(state: RunState, now: float, course: Course, entry: Entry, message: Applied) -> None:
    """A member tells the check of a version that it holds; a minority is repaired (S1)."""
    if now < entry.served_from:
        return  # it was found wrong again and again, and gets the state later
    entry.tell_check(message.fragment, message.version, message.check)
    if message.version == course.chain.base(message.fragment):
        _compare(state, course, now, message.fragment)


def named(state: RunState, now: float, course: Course, entry: Entry, message: StateNamed) -> None:
    """A member tells the digest of a version that it holds."""
    if now < entry.served_from:
        return
    fragment, version = message.fragment, message.version
    was_asked = entry.asked_names.pop((fragment, version), None) is not None
    entry.tell_name(fragment, version, message.state)
    if version == course.chain.base(fragment):
        _compare(state, course, now, fragment)
    elif was_asked:
        name = naming.majority(state, course, fragment, version)
        saving.agree(state, course, fragment, version, name)


def _compare(state: RunState, course: Course, now: float, fragment: int) -> None:
    if state.rules.gossips:
        return  # every member has a state of its own: to have them all named would be hashing for nothing
    version = course.chain.base(fragment)
    if differ(state.roster.entered_in(course.number), fragment, version):
        naming.ask(state, course, now, fragment, version)  # who says no more than the check may hold either
    recomputing.look_at(state, course, fragment)
    settle(state, course, now, fragment)


def settle(state: RunState, course: Course, now: float, *fragments: int) -> None:
    """Remember what was agreed on, and repair who differs from it."""
    for fragment in fragments:
        saving.applied(state, course, fragment)
        for other in recomputing.withdrawn(state, course, fragment):
            recomputing.found_wrong(course, now, other, state.rules.failure_timeout_s)
            if other.entered:
                _give_up(state, course, now, other, "it took back a state that was found wrong")
        for other in state.mode.dissenters(course, fragment):
            _repair(state, course, now, other, fragment)


def applying(state: RunState, now: float, course: Course, entry: Entry, message: Applying) -> None:
    """A member is about to hold a later state, so that nobody need go back behind that one."""
    index = course.chain.index_of(message.head)
    if now >= entry.served_from and entry.holds_state and index > course.chain.index_of(entry.head):
        entry.will_hold = message.head


def caught_up(state: RunState, now: float, course: Course, entry: Entry, message: CaughtUp) -> None:
    """A member's head. Once it is at most one commit per fragment behind, with no digest that differs
    from the agreed one, it is active: rounds wait for it now (for the grace at most), so that it can
    reach a head that would otherwise move away from it for ever."""
    if now < entry.served_from:
        return
    entry.head, entry.holds_state, entry.assembles = message.head, True, b""
    if course.chain.head == GENESIS and entry.key == course.seed and message.head != GENESIS:
        state.begin_run(course, message.head)
        for fragment in entry.checks:
            saving.applied(state, course, fragment)
    if saving.holds_another(course, entry):
        state.outlet.trace(SavedOtherTrace(entry.key, entry.name, course.chain.index_of(message.head)))
        _give_up(state, course, now, entry, "its state is not the one that was saved at its head")
        return
    if entry.active or course.manifest is None or course.chain.index_of(message.head) < 0:
        return
    if course.chain.index - course.chain.index_of(message.head) > course.manifest.num_fragments:
        return
    differing = state.mode.differing_fragment(course, entry)
    if differing is not None:
        _repair(state, course, now, entry, differing)
        return
    if entry in overtaken(state, course, now, entry):
        return
    entry.become_active()
    if entry.came_without_state and course.chain.index and entry.chase.num_times < catching_up.TIMES:
        entry.awaited_from = course.chain.index + course.manifest.num_fragments
    state.mode.tell_active(now, entry)
    state.outlet.trace(ActiveTrace(peer=entry.key, peer_name=entry.name, index=course.chain.index))


def overtaken(state: RunState, course: Course, now: float, entry: Entry | None = None) -> list[Entry]:
    """Members that are to fetch another state, since the others are far ahead of theirs: see
    `ExchangeMode.left_behind`."""
    behind = state.mode.left_behind(course, entry)
    for each in behind:
        claim = each.forget_claim()
        told = LeftBehindTrace(peer=each.key, peer_name=each.name, steps=claim.index if claim else 0)
        state.outlet.trace(told)
        _give_up(state, course, now, each, "the others are far ahead of its replica")
        each.holds_state = True  # should all others go before it has copied one, it goes on from its own
    return behind


def needs_state(state: RunState, now: float, course: Course, entry: Entry, message: NeedState) -> None:
    """A member says that it cannot follow."""
    state.outlet.trace(NeedsStateTrace(peer=entry.key, reason=message.reason))
    rounds.leave_all(state, course, now, entry, message.reason)
    if entry.member_state is MemberState.FOLLOWING and not entry.holds_state:
        entry.refusals.num_in_vain += 1
    catching_up.fell_behind(now, entry)
    assembling.failed(course, entry)
    held = entry.holds_state
    entry.give_up_state()
    entry.holds_state = held  # of an earlier head: the swarm may have to go back to it
    entry.stranded = True
    _doubt_first_state(state, course, now)


def unusable(state: RunState, now: float, course: Course, entry: Entry, message: Unusable) -> None:
    """A member cannot use what it fetched, and says so before it asks for another state."""
    note(entry, now, state.rules.failure_timeout_s, message)
    known = state.roster.entries
    names = ", ".join(known[peer].full_name for peer in message.peers if peer in known)
    state.outlet.trace(
        UnusableTrace(
            peer=entry.key,
            peer_name=entry.name,
            fragment=message.fragment,
            peers=message.peers,
            reason=cut(f"{message.reason}: {names}" if names else message.reason),
        )
    )
    _doubt_first_state(state, course, now)


def _doubt_first_state(state: RunState, course: Course, now: float) -> None:
    """Ask another member for the first state, if that is of no use to most."""
    entered, seed = state.roster.entered_in(course.number), course.seed
    first = course.chain.index == 0 and course.chain.head != GENESIS and not state.rules.gossips
    if first and seed is not None and of_no_use(seed, entered):
        state.roster.entries[seed].gave_no_state = True
        for current in list(course.rounds.values()):
            state.abort(now, course, current, "the first state is of no use")
        restoring.ask_for_another_first_state(state, course)


def _repair(state: RunState, course: Course, now: float, entry: Entry, fragment: int) -> None:
    """A member holds other bits than the others at the same commit: have it fetch the state again (S1)."""
    state.outlet.trace(ParityTrace(peer=entry.key, fragment=fragment, index=course.chain.index))
    if recomputing.decided(course, fragment, state.mode.agreed(course, fragment).check):
        recomputing.found_wrong(course, now, entry, state.rules.failure_timeout_s)
    _give_up(state, course, now, entry, "its state differs from the others'")


def _give_up(state: RunState, course: Course, now: float, entry: Entry, reason: str) -> None:
    rounds.leave_all(state, course, now, entry, reason)
    entry.give_up_state()


def part_with_unnamed(state: RunState, course: Course, now: float) -> None:
    """Whoever does not name its state, where all are to be bound by that, is taken to hold none."""
    for entry in naming.overdue(state, course, now):
        if entry.holds_state:
            recomputing.found_wrong(course, now, entry, state.rules.failure_timeout_s)
            _give_up(state, course, now, entry, "it does not name its state")


def serve_waiting(state: RunState, course: Course, now: float) -> None:
    """Name donors to the members that wait for the state, or name one of them the seed."""
    if course.manifest is None:
        return
    for entry in state.roster.following_in(course.number):
        if not entry.was_told_donors and is_newer(course, entry):
            entry.wait_for_state()  # it claimed a record that the run does not have
    waiting = [entry for entry in state.roster.waiting_in(course.number) if now >= entry.served_from]
    sources = state.mode.sources(course) if waiting else []
    if waiting and all(donors for _, _, donors in sources):
        for entry in waiting:
            found = usable(entry, now, sources)
            course.num_donations += found is None  # with gossip another member is asked for next
            if found is not None:
                _send_donors(state, course, now, entry, found)
    elif waiting and course.chain.head == GENESIS:
        _name_seed(state, course, now, waiting)
    elif waiting and state.rules.gossips and not state.roster.active_in(course.number):
        _let_one_go_on(state, now, waiting)
    restoring.restore_if_lost(state, course, now)


def _send_donors(state: RunState, course: Course, now: float, entry: Entry, sources: FragmentSources) -> None:
    chain = course.chain
    entry.follow_donors()
    catching_up.follows(state, now, entry)
    course.num_donations += 1
    versions = tuple(chain.base(fragment) for fragment, _, _ in sources)
    assembling.send_donors(state, now, entry, sources, versions, chain.head, chain.index)


def _let_one_go_on(state: RunState, now: float, waiting: list[Entry]) -> None:
    """With gossip: nobody is left whose replica could be copied. Who was to copy one has its own still."""
    holder = next((entry for entry in waiting if entry.holds_state and not entry.out_of_sight), None)
    if holder is not None:
        holder.begin_seeding()
        state.outlet.send(now, holder.key, Seed(state.roster.epoch))


def _name_seed(state: RunState, course: Course, now: float, waiting: list[Entry]) -> None:
    seed = state.roster.entries.get(course.seed) if course.seed else None
    here = [entry for entry in waiting if not entry.out_of_sight]
    if state.forked:
        here = [entry for entry in here if entry.key == state.me]
    here.sort(key=lambda entry: (entry.gave_no_state, is_newer(course, entry)))
    if not here:
        return
    if seed is not None and seed.entered and not seed.waits_for_state:
        if not seed.out_of_sight and now < course.seed_until:
            return  # the one that was named is at it
        seed.gave_no_state |= not seed.out_of_sight
        seed.give_up_state()  # should it come back, it gets the state as all others do
    # A slow one may be the fastest: each has twice as long as the one before.
    patience_s = state.rules.grace_s + 2 * state.rules.failure_timeout_s
    course.seed_until = now + patience_s * 2 ** min(MAX_DOUBLINGS, course.num_seeds)
    course.num_seeds += 1
    course.seed = here[0].key
    here[0].begin_seeding()
    state.outlet.trace(SeedTrace(peer=course.seed, peer_name=here[0].name))
    state.outlet.send(now, course.seed, Seed(state.roster.epoch))
