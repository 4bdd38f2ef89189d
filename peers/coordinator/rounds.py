"""How the coordinator opens, repairs and commits rounds.

Functions over the coordinator's state: open when enough members are ready (and everyone, or the
grace is over), go on with the survivors when one is lost, commit when all live members hold the
same result. Keeps S3, S6, S8, L1, L2, L5 and L7.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry
from peers.protocol.messages import Abort, Committed, Open, Rejected, Wanted
from peers.protocol.record import Record
from peers.protocol.traces import (
    CommittedTrace,
    DissentTrace,
    GridlockTrace,
    OpenedTrace,
    OutlierTrace,
    RepairedTrace,
    SetAsideTrace,
)
from transport.collectives.direct_reduce import chunk_elements_for
from transport.frames import pack

if TYPE_CHECKING:
    from peers.coordinator.coordinator import Coordinator

MAX_SPLIT_ATTEMPTS = 3
"""Attempts after which a round whose results differ without a majority is given up."""
MAX_STRIKES = 4
"""A member that was set aside n times in a row sits out 2**n - 1 commits, at most 2**4 - 1."""


def open_what_can_be(c: Coordinator, now: float) -> None:
    """Open a round of every fragment for which it is time."""
    if c.model is None or c.finished or c.rules.gossips:
        return
    for fragment in sorted(c.ready_since):
        if fragment < c.model.num_fragments and fragment not in c.rounds:
            chosen = _choose(c, now, fragment)
            if chosen:
                _open(c, now, fragment, chosen)


def _choose(c: Coordinator, now: float, fragment: int) -> list[Entry]:
    base = c.chain.base(fragment)
    active = c.roster.active()
    _reject_outliers(c, now, fragment, base)
    offering = [e for e in active if fragment in e.ready and e.ready[fragment].base == base]
    if not offering:
        c.ready_since.pop(fragment, None)
        return []
    willing = [e for e in offering if e.sits_out_until <= c.chain.index]
    chosen = willing if len(willing) >= c.rules.fewest else offering
    if len(chosen) < c.rules.fewest or len(active) < c.rules.min_peers:
        return []
    here = set(offering)
    awaited = [e for e in active if e not in here and e.sits_out_until <= c.chain.index]
    over = now >= c.ready_since[fragment] + c.rules.grace_s
    return chosen if over or not awaited else []


def end_gridlock(c: Coordinator, now: float) -> None:
    """Members out of step may wait for each other in a circle, each with another fragment. Whoever lacks an
    offer of the one that has waited longest is asked for it, once; if that does not help, the next."""
    waiting = {fragment: since for fragment, since in c.ready_since.items() if c.asked.get(fragment) != since}
    here = [e for e in c.roster.active() if e.ready or e.sits_out_until <= c.chain.index]
    if c.rounds or not waiting or not all(e.ready for e in here):
        return
    fragment = min(waiting, key=lambda f: (waiting[f], f))
    c.asked[fragment] = waiting[fragment]
    lacking = [e for e in here if fragment not in e.ready]
    for entry in lacking:
        c.outlet.send(now, entry.key, Wanted(fragment))
    if lacking:
        c.outlet.trace(GridlockTrace(fragment=fragment, peers=tuple(e.key for e in lacking)))


def _reject_outliers(c: Coordinator, now: float, fragment: int, base: bytes) -> None:
    """S12: a contribution whose norm is far above the median of the others' would drown them. Fewer
    than three offers leave nothing to compare with."""
    offers = [(e, e.ready[fragment]) for e in c.roster.active() if fragment in e.ready]
    offers = [(entry, ready) for entry, ready in offers if ready.base == base]
    if len(offers) < 3:
        return
    largest = max(offers, key=lambda offer: offer[1].norm)
    rest = median(ready.norm for _, ready in offers if ready is not largest[1])
    if largest[1].norm <= c.rules.outlier_factor * rest:
        return  # then no smaller one is: without it the others' median is no lower
    for entry, ready in offers:
        others = median(r.norm for e, r in offers if e is not entry)
        if ready.norm > c.rules.outlier_factor * others > 0.0:
            del entry.ready[fragment]
            _penalize(c, entry)
            reason = f"its norm {ready.norm:.3g} is far above the others' median {others:.3g}"
            c.outlet.trace(OutlierTrace(peer=entry.key, peer_name=entry.name, reason=reason))
            c.outlet.send(now, entry.key, Rejected(fragment, ready.number, reason))


def _open(c: Coordinator, now: float, fragment: int, chosen: list[Entry]) -> None:
    assert c.model is not None
    elements = c.model.elements[fragment]
    current = OpenRound(
        serial=c.next_serial(),
        fragment=fragment,
        base=c.chain.base(fragment),
        chunk_elements=chunk_elements_for(
            elements, len(chosen), c.limits.chunk_elements, c.limits.chunks_per_owner
        ),
        founders=tuple(sorted(e.key for e in chosen)),
        weights=(),
        opened_at=now,
        attempt_at=now,
    )
    weights = {e.key: float(e.ready[fragment].weight) for e in chosen}
    current.weights = tuple(weights[key] for key in current.founders)
    for entry in chosen:
        del entry.ready[fragment]
    del c.ready_since[fragment]
    c.rounds[fragment] = current
    c.outlet.trace(OpenedTrace(serial=current.serial, fragment=fragment, members=current.founders))
    _say_open(c, now, current)


def _say_open(c: Coordinator, now: float, current: OpenRound) -> None:
    message = Open(
        current.serial,
        current.attempt,
        current.fragment,
        current.base,
        current.chunk_elements,
        current.founders,
        current.weights,
        current.lost_indexes(),
    )
    for member in current.members:
        c.outlet.send(now, member, message)


def lose(c: Coordinator, now: float, current: OpenRound, gone: list[bytes], reason: str) -> None:
    """Go on without ``gone``. If everyone left already holds the whole result, it stands: what the
    lost member contributed is in it, and its weight too."""
    if not any(member in current.members for member in gone):
        return
    left = [m for m in current.members if m not in gone]
    held = {current.done.get(m) for m in left}
    if left and None not in held and len(held) == 1 and len(left) >= c.rules.fewest:
        _commit(c, now, current, current.members, current.done[left[0]])
        return
    current.lost.update(gone)
    if len(current.members) < c.rules.fewest:
        left_over = f"{len(current.members)} members left of at least {c.rules.fewest}"
        c.abort(now, current, f"{left_over}: {reason}")
        return
    current.next_attempt(now)
    c.outlet.trace(
        RepairedTrace(serial=current.serial, attempt=current.attempt, lost=tuple(gone), reason=reason)
    )
    _say_open(c, now, current)


def _penalize(c: Coordinator, entry: Entry) -> None:
    """Nobody waits for this member for a while, longer each time, until it is in a commit again."""
    entry.strikes = min(MAX_STRIKES, entry.strikes + 1)
    entry.sits_out_until = c.chain.index + 2**entry.strikes - 1


def set_aside(c: Coordinator, now: float, current: OpenRound, victims: list[bytes], reason: str) -> None:
    """Leave live members out of this round: they keep their membership and follow."""
    for key in victims:
        entry = c.roster.entries.get(key)
        if entry is None or key not in current.members:
            continue
        _penalize(c, entry)
        c.outlet.trace(SetAsideTrace(peer=key, serial=current.serial, reason=reason))
        if entry.entered:
            c.outlet.send(now, key, Abort(current.serial, reason, False))
    lose(c, now, current, victims, reason)


def settle(c: Coordinator, now: float, current: OpenRound) -> None:
    """Commit if everyone holds the same result; set aside who differs from most of the others."""
    digest = current.agreement()
    if digest is not None:
        _commit(c, now, current, current.members, digest)
        return
    if not current.differ():
        return
    dissenters = current.dissenters()
    c.outlet.trace(DissentTrace(serial=current.serial, peers=tuple(dissenters)))
    if dissenters:
        set_aside(c, now, current, dissenters, "its result differs from the others'")
    elif current.attempt >= MAX_SPLIT_ATTEMPTS:
        c.abort(now, current, "members keep holding different results, and none is held by most")
    else:  # who is wrong cannot be told: all do it again, as after a loss
        current.next_attempt(now)
        _say_open(c, now, current)


def judge(c: Coordinator, now: float, current: OpenRound) -> None:
    """Some members report others: after a short wait for more reports, set the fewest aside."""
    if current.judge_at is None or now < current.judge_at:
        return
    current.judge_at = None
    heard = {m: c.outlet.last_heard(now, m) for m in current.members}
    order = {m: c.roster.entries[m].order for m in current.members}
    victims = current.whom_to_set_aside(heard, order)
    if victims:
        set_aside(c, now, current, victims, "it and another member do not reach each other")


def _commit(
    c: Coordinator, now: float, current: OpenRound, members: tuple[bytes, ...], digest: bytes
) -> None:
    del c.rounds[current.fragment]
    record = Record(
        parent=c.chain.head,
        index=c.chain.index + 1,
        fragment=current.fragment,
        epoch=c.roster.epoch,
        serial=current.serial,
        chunk_elements=current.chunk_elements,
        members=members,
        weights=tuple(current.weight_of(m) for m in members),
        result=digest,
    )
    head = c.commit(now, record)
    for member in members:
        entry = c.roster.entries[member]
        entry.strikes = 0
        if member in current.done and entry.entered:
            entry.will_hold = head
    c.recent.append((record.fragment, len(members), round(now - current.opened_at, 6)))
    c.outlet.trace(
        CommittedTrace(
            index=record.index,
            serial=record.serial,
            fragment=record.fragment,
            members=members,
            weights=record.weights,
            attempt=current.attempt,
            seconds=now - current.opened_at,
        )
    )


def announce(c: Coordinator, now: float, record: Record) -> None:
    """Tell everyone of a record; contributions to what it moved are void."""
    message = Committed(pack(record))
    for entry in c.roster.entered():
        if record.restores:
            entry.ready.clear()
        else:
            entry.ready.pop(record.fragment, None)
        c.outlet.send(now, entry.key, message)
