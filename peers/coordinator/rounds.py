"""How the coordinator opens, repairs and commits rounds.

Functions over a run's state and one of its courses: open when enough members are ready (and everyone, or the
grace is over), go on with the survivors when one is lost, commit when all live members hold the
same result. Keeps S3, S6, S8, L1, L2, L5 and L7.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from statistics import median

from peers.coordinator import catching_up, last_round, mean_proofs, naming, sharing, spot_checks
from peers.coordinator.course import CommitSummary, Course
from peers.coordinator.disputes import disputed
from peers.coordinator.influence import FEWEST_JUDGES, NormHistory, effective_weights
from peers.coordinator.marks import FORGIVEN_AFTER
from peers.coordinator.measured import mean_limit, part_limit
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Chase, Entry
from peers.coordinator.state import RunState
from peers.protocol.fields import MAX_SQUARE, cut
from peers.protocol.messages import Abort, Open, Rejected, Wanted
from peers.protocol.record import NO_DIGEST, Record
from peers.protocol.traces import (
    CommittedTrace,
    GridlockTrace,
    OpenedTrace,
    OutlierTrace,
    RepairedTrace,
    SetAsideTrace,
)
from transport.collectives.plan import Plan, chunk_elements_for

MAX_SPLIT_ATTEMPTS = 3
"""Attempts after which a round whose results differ without a majority is given up."""
MAX_PENALTIES = 4
"""A member that was set aside n times in a row sits out 2**n - 1 commits, at most 2**4 - 1."""
MAX_COMMITS_OUT = 63
"""One for which several others wait in vain sits out 5**n - 1, at most so many."""


def next_opening(state: RunState, looked_at: float) -> float:
    """When a grace or a wait ends next; infinity if none runs. What was over when that was last looked at is
    not waited for: something else keeps those rounds shut."""
    ends = [max(end, each.opens_at) for each in state.courses.values() for end in each.grace_ends.values()]
    waits = min((end for end in ends if end > looked_at), default=math.inf)
    return min(waits, catching_up.next_end(state, looked_at))


def open_what_can_be(state: RunState, course: Course, now: float) -> None:
    """Open a round of every fragment for which it is time."""
    last_round.prepare(state, course, now)
    if course.manifest is None or state.finished:
        return
    for fragment in sorted(course.ready_since):
        is_known = fragment < course.manifest.num_fragments and last_round.may_open(
            state, course, now, fragment
        )
        if is_known and fragment not in course.rounds:
            chosen = _choose(state, course, now, fragment)
            if _refuse_leaps(state, course, now, fragment, chosen):
                chosen = _choose(state, course, now, fragment)
            is_bound = not naming.binds(state, course, now, fragment)
            if chosen and is_bound and not disputed(state, course, fragment):
                _open(state, course, now, fragment, chosen)


def _choose(state: RunState, course: Course, now: float, fragment: int) -> list[Entry]:
    base = course.chain.base(fragment)
    active = state.roster.active_in(course.number)
    _reject_outliers(state, course, now, fragment, base)
    here = {e for e in active if fragment in e.ready and e.ready[fragment].base == base}
    if not here:
        course.ready_since.pop(fragment, None)
    offering = [e for e in active if e in here and not e.is_missing]
    fewest = last_round.fewest(state, fragment)
    if len(offering) < fewest or len(active) < last_round.fewest_active(state, fragment):
        course.grace_ends.pop(fragment, None)
        return []
    willing = [e for e in offering if e.sits_out_until <= course.chain.index]
    chosen = willing if len(willing) >= fewest else offering
    begins = now if state.rules.quorum else course.ready_since[fragment]
    ends = course.grace_ends.setdefault(fragment, begins + state.rules.grace_s)
    if now < course.opens_at or catching_up.awaited(state, course, now):
        return []
    awaited = [
        e for e in active if e not in here and _is_awaited(course, e) and not passes(e, fragment, base)
    ]
    return chosen if now >= ends or not awaited else []


def passes(entry: Entry, fragment: int, base: bytes) -> bool:
    """Whether a member has said that it has nothing to contribute on top of a version."""
    return fragment in entry.passes and entry.passes[fragment].base == base


def _is_awaited(course: Course, entry: Entry) -> bool:
    """Whether a round waits for what this member may offer."""
    from_index = max(entry.sits_out_until, entry.awaited_from)
    return from_index <= course.chain.index and not entry.is_missing and not entry.rests


def end_gridlock(state: RunState, course: Course, now: float) -> None:
    """Members out of step may wait for each other in a circle, each with another fragment. Whoever lacks an
    offer of the one that has waited longest is asked for it, once; if that does not help, the next."""
    waiting = {f: since for f, since in course.ready_since.items() if course.asked.get(f) != since}
    active = state.roster.active_in(course.number)
    here = [e for e in active if e.ready or _is_awaited(course, e)]
    if course.rounds or not waiting or not all(e.ready for e in here):
        return
    fragment = min(waiting, key=lambda f: (waiting[f], f))
    course.asked[fragment] = waiting[fragment]
    lacking = [e for e in here if fragment not in e.ready]
    for entry in lacking:
        state.outlet.send(now, entry.key, Wanted(fragment))
    if lacking:
        state.outlet.trace(GridlockTrace(fragment=fragment, peers=tuple(e.key for e in lacking)))


def _reject_outliers(state: RunState, course: Course, now: float, fragment: int, base: bytes) -> None:
    """S12: a contribution whose norm is far above the median of the others' would drown them. Of fewer than
    four offers none can be judged by the others."""
    offers = [(e, e.ready[fragment]) for e in state.roster.active_in(course.number) if fragment in e.ready]
    offers = [(entry, ready) for entry, ready in offers if ready.base == base]
    if len(offers) < FEWEST_JUDGES:
        return
    largest = max(offers, key=lambda offer: offer[1].norm)
    rest = median(ready.norm for _, ready in offers if ready is not largest[1])
    if largest[1].norm <= state.rules.outlier_factor * rest:
        return  # then no smaller one is: without it the others' median is no lower
    for entry, ready in offers:
        others = median(r.norm for e, r in offers if e is not entry)
        if ready.norm > state.rules.outlier_factor * others > 0.0:
            reason = f"its norm {ready.norm:.3g} is far above the others' median {others:.3g}"
            _refuse_offer(state, course, now, entry, fragment, reason)


def _refuse_leaps(state: RunState, course: Course, now: float, fragment: int, chosen: list[Entry]) -> bool:
    """S12 where too few are here to judge each other: a norm is held against the member's own last ones. True
    if anything was refused."""
    if not 0 < len(chosen) < FEWEST_JUDGES or not state.rules.max_influence:
        return False
    leaping = [e for e in chosen if e.ready[fragment].norm > _history(e, fragment).bound(now)]
    for entry in leaping:
        history = _history(entry, fragment)
        norm, last = entry.ready[fragment].norm, max(history.committed)
        history.num_refused += 1
        reason = f"its norm {norm:.3g} is far above the {last:.3g} of its own last rounds"
        _refuse_offer(state, course, now, entry, fragment, reason)
    return bool(leaping)


def _history(entry: Entry, fragment: int) -> NormHistory:
    return entry.norms.setdefault(fragment, NormHistory())


def _refuse_offer(
    state: RunState, course: Course, now: float, entry: Entry, fragment: int, reason: str
) -> None:
    number = entry.ready.pop(fragment).number
    _penalize(course, entry)
    state.outlet.trace(OutlierTrace(peer=entry.key, peer_name=entry.name, reason=reason))
    state.outlet.send(now, entry.key, Rejected(fragment, number, reason))


def _open(state: RunState, course: Course, now: float, fragment: int, chosen: list[Entry]) -> None:
    assert course.manifest is not None
    elements = course.manifest.elements[fragment]
    element_bytes = state.rules.element_bytes
    if last_round.is_of_buffers(state, fragment):
        element_bytes = max(last_round.ELEMENT_BYTES, element_bytes)
    chosen = sorted(chosen, key=lambda entry: entry.key)
    norms = tuple(entry.ready[fragment].norm for entry in chosen)
    growth = state.rules.part_growth
    limits = tuple(min(MAX_SQUARE, part_limit(norm, elements, growth)) for norm in norms)
    offered = [float(entry.ready[fragment].weight) for entry in chosen]
    current = OpenRound(
        serial=state.next_serial(),
        fragment=fragment,
        base=course.chain.base(fragment),
        chunk_elements=chunk_elements_for(elements, len(chosen), state.limits, element_bytes),
        founders=tuple(entry.key for entry in chosen),
        weights=effective_weights(offered, norms, state.rules.max_influence),
        norms=norms,
        numbers=tuple(entry.ready[fragment].number for entry in chosen),
        part_limits=limits,
        mean_limit=min(MAX_SQUARE, mean_limit(limits, state.rules.mean_growth)),
        opened_at=now,
        attempt_at=now,
        life=state.life,
    )
    for entry in chosen:
        del entry.ready[fragment]
    del course.ready_since[fragment], course.grace_ends[fragment]
    course.rounds[fragment] = current
    state.outlet.trace(OpenedTrace(serial=current.serial, fragment=fragment, members=current.founders))
    _say_open(state, course, now, current)


def repeat(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    """Have the same members do it again."""
    current.next_attempt(now)
    _say_open(state, course, now, current)


def idle_of(course: Course, members: Sequence[bytes]) -> frozenset[bytes]:
    """Who owns no chunks in an attempt of these members: those under suspicion, and pairs that do not reach
    each other, as far as two are left to own some. Of three the third owns all: it did not bring that about,
    and else whoever calls another one silent would have that one sit out."""
    index = course.chain.index
    suspected = course.suspicion.idle(members, index)
    here = set(members)
    apart = {each for pair in course.apart.live(index) if here.issuperset(pair) for each in pair}
    fewest = 1 if len(here) == 3 else 2
    return suspected | apart if len(here - suspected - apart) >= fewest else suspected


def _say_open(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    current.idle = idle_of(course, current.members)
    current.proved = current.proved or course.suspicion.proves(current.members, course.chain.index)
    lost = frozenset(current.lost)
    current.plans[current.attempt] = Plan(
        current.attempt, current.founders, current.weights, lost, current.idle, current.proved
    )
    message = Open(
        current.serial,
        current.attempt,
        current.fragment,
        current.base,
        current.chunk_elements,
        current.founders,
        current.weights,
        current.lost_indexes(),
        current.idle_indexes(),
        current.proved,
        course.number,
        current.part_limits,
        current.mean_limit,
        current.life,
        current.numbers,
    )
    for member in current.members:
        state.outlet.send(now, member, message)


def lose(
    state: RunState, course: Course, now: float, current: OpenRound, gone: list[bytes], reason: str
) -> None:
    """Go on without ``gone``. If everyone left already holds the whole result, it stands: what the
    lost member contributed is in it, and its weight too."""
    if not any(member in current.members for member in gone):
        return
    left = [m for m in current.members if m not in gone]
    held = {current.done.get(m) for m in left}
    fewest = last_round.fewest(state, current.fragment)
    whole = bool(left) and None not in held and len(held) == 1 and len(left) >= fewest
    if whole and not current.disputes():
        _commit(state, course, now, current, current.members, current.done[left[0]])
        return
    current.lost.update(gone)
    if len(current.members) < fewest:
        left_over = f"{len(current.members)} members left of at least {fewest}"
        state.abort(now, course, current, cut(f"{left_over}: {reason}"))
        return
    current.next_attempt(now)
    state.outlet.trace(
        RepairedTrace(serial=current.serial, attempt=current.attempt, lost=tuple(gone), reason=reason)
    )
    _say_open(state, course, now, current)


def _penalize(course: Course, entry: Entry, growth: int = 2, *, again: bool = True) -> None:
    """Nobody waits for this member for a while, longer each time, until it is in a commit again. Where it is
    not ``again``, that time counts already."""
    if again:
        entry.num_penalties = min(MAX_PENALTIES, entry.num_penalties + 1)
    commits_out = min(MAX_COMMITS_OUT, growth**entry.num_penalties - 1)
    since = course.chain.index + commits_out
    entry.sits_out_until = since if again else max(since, entry.sits_out_until)


def _remember_dissent(course: Course, entry: Entry) -> None:
    """It says that it holds what no other does, or says nothing, which costs the others an attempt or a wait.
    Commits between do not excuse it: it sits out longer each time, until `FORGIVEN_AFTER` commits without."""
    index = course.chain.index
    kept = entry.num_dissents if index < entry.dissented_at + FORGIVEN_AFTER else 0
    entry.num_dissents, entry.dissented_at = kept + 1, index
    entry.num_penalties = max(entry.num_penalties, min(MAX_PENALTIES, kept))


def is_another_time(entry: Entry, current: OpenRound) -> bool:
    """Whether a round opened since the member was set aside last. One of another fragment that was open then
    waits in vain for the same reason."""
    return current.opened_at >= entry.set_aside_at


def set_aside(
    state: RunState,
    course: Course,
    now: float,
    current: OpenRound,
    victims: list[bytes],
    reason: str,
    by_several: Collection[bytes] = (),
) -> None:
    """Leave live members out of this round, and do not wait for them for a while: they keep their membership
    and follow. Those of whom several others say so sit out for longer."""
    for key in victims:
        if key in current.members:
            entry = state.roster.entries[key]
            _penalize(course, entry, 5 if key in by_several else 2, again=is_another_time(entry, current))
            entry.set_aside_at = now
            state.outlet.trace(SetAsideTrace(peer=key, serial=current.serial, reason=reason))
    _leave_out(state, course, now, current, victims, reason)


def leave_all(state: RunState, course: Course, now: float, entry: Entry, reason: str) -> None:
    """A member is about to get the state anew: no round waits for it, and it knows what became of each."""
    for current in list(course.rounds.values()):
        _leave_out(state, course, now, current, [entry.key], reason)


def _leave_out(
    state: RunState, course: Course, now: float, current: OpenRound, gone: list[bytes], reason: str
) -> None:
    """Decide first, then tell: a record may be written here, and count who is ``gone`` (S4)."""
    left = [key for key in gone if key in current.members and state.roster.entries[key].entered]
    lose(state, course, now, current, gone, reason)
    for key in left:
        if key in current.lost:
            state.outlet.send(now, key, Abort(current.serial, reason, False))


def settle(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    """Commit if everyone holds the same result."""
    digest = current.agreement()
    if digest is not None:
        _commit(state, course, now, current, current.members, digest)


def part_with_dissenters(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    """Set aside who differs from most of the others; nobody could show who is wrong."""
    dissenters = current.dissenters()
    if dissenters:
        for key in dissenters:
            _remember_dissent(course, state.roster.entries[key])
        set_aside(state, course, now, current, dissenters, "its result differs from the others'")
    elif current.attempt >= MAX_SPLIT_ATTEMPTS:
        state.abort(now, course, current, "members keep holding different results, and none is held by most")
    else:  # who is wrong cannot be told: all do it again, as after a loss
        repeat(state, course, now, current)


def part_with_laggards(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    """Most are done, and the others are not long after: they may have got nothing, or say nothing. What they
    contributed stands if all the others hold the same."""
    missing = [member for member in current.members if member not in current.done]
    patience_s = state.rules.failure_timeout_s + 2 * (current.done_at - current.attempt_at)
    most = 2 * len(missing) <= len(current.members)
    is_open = course.rounds.get(current.fragment) is current
    if not missing or not most or not is_open or now < current.done_at + patience_s:
        return
    for key in missing:
        _remember_dissent(course, state.roster.entries[key])
    set_aside(state, course, now, current, missing, "it does not say that it holds the result")


def _commit(
    state: RunState, course: Course, now: float, current: OpenRound, members: tuple[bytes, ...], digest: bytes
) -> None:
    del course.rounds[current.fragment]
    record = Record(
        parent=course.chain.head,
        index=course.chain.index + 1,
        fragment=current.fragment,
        epoch=state.roster.epoch,
        serial=current.serial,
        chunk_elements=current.chunk_elements,
        members=members,
        weights=tuple(current.weight_of(m) for m in members),
        result=digest,
        course=course.number,
        former=course.saves.agreed(current.fragment, current.base) or NO_DIGEST,
    )
    spot_checks.draw(state, course, now, current, record)
    mean_proofs.draw(state, course, now, current, record)
    sharing.about_to_commit(state, course, now, record)
    head = state.commit(now, course, record)
    for member in members:
        entry = state.roster.entries[member]
        if current.done.get(member) == digest:  # whoever was just set aside may be in the record all the same
            entry.num_penalties = 0
        entry.chase = Chase()
        _history(entry, current.fragment).commit(now, current.norm_of(member))
        entry.pace.accepted(now, record.fragment, state.rules.overlap)
        if member in current.done and entry.entered:
            entry.will_hold = head
    _begin_grace_anew(state, course, now)
    seconds = now - current.opened_at
    course.recent.append(CommitSummary(record.fragment, len(members), round(seconds, 6)))
    state.outlet.trace(
        CommittedTrace(
            index=record.index,
            serial=record.serial,
            fragment=record.fragment,
            members=members,
            weights=record.weights,
            attempt=current.attempt,
            seconds=seconds,
            num_rounds=state.mode.num_rounds(course),
            course=course.number,
        )
    )


def _begin_grace_anew(state: RunState, course: Course, now: float) -> None:
    """Of a fragment that nobody offers but those who sit out no more since this commit: their offers are of a
    time in which nobody waited for them, and the grace of the others is yet to come."""
    index = course.chain.index
    for fragment in course.ready_since:
        here = [e for e in state.roster.active_in(course.number) if fragment in e.ready]
        willing = [e.sits_out_until for e in here if e.sits_out_until <= index]
        if willing and min(willing) == index:
            course.ready_since[fragment] = now
            course.grace_ends.pop(fragment, None)
