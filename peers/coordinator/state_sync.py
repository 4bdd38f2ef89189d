"""How the coordinator brings newcomers and stragglers to the shared state.

The very first state comes from one member that is named to seed the run. Everyone else follows
commit records if they are close enough, or fetches the state from donors: active members that
report the agreed digest (so one that has not caught up is never a donor). When nobody who holds the
head is left, the swarm goes on from the furthest state that a live member holds, and a record says
so; if no such member is here, it waits. Keeps S1, S9, L3, L4 and invariant 3 of the design.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.coordinator.chain import agreed_state
from peers.coordinator.roster import Entry
from peers.protocol.messages import (
    Applied,
    CatchUp,
    CaughtUp,
    Committed,
    MemberActive,
    NeedState,
    Seed,
    Serve,
)
from peers.protocol.record import ALL_FRAGMENTS, GENESIS, Record
from peers.protocol.traces import (
    ActiveTrace,
    NeedsStateTrace,
    ParityTrace,
    RestoredTrace,
    SeedLostTrace,
    SeedTrace,
    StateLostTrace,
)
from transport.frames import pack

if TYPE_CHECKING:
    from peers.coordinator.coordinator import Coordinator


def start_following(c: Coordinator, now: float, entry: Entry) -> None:
    """After entering: records to follow, or a place among those who need the state."""
    following = c.chain.after(entry.head) if entry.holds_state else None
    if following is None:
        entry.needs_state = True
        return
    for record in following:
        c.outlet.send(now, entry.key, Committed(pack(record)))


def applied(c: Coordinator, now: float, entry: Entry, message: Applied) -> None:
    """A member tells the digest of a version that it holds; a minority is repaired (S1)."""
    entry.digests[message.fragment] = (message.version, message.state)
    if message.version != c.chain.base(message.fragment) or c.rules.gossips:
        return
    agreed, _ = agreed_state(c.roster.active(), message.fragment, message.version)
    for other in c.roster.active():
        held = other.digests.get(message.fragment)
        if held is not None and held[0] == message.version and held[1] != agreed:
            c.outlet.trace(ParityTrace(peer=other.key, fragment=message.fragment, index=c.chain.index))
            _send_back(other)


def caught_up(c: Coordinator, now: float, entry: Entry, message: CaughtUp) -> None:
    """A member's head. Once it is at most one commit per fragment behind, with no digest that differs
    from the agreed one, it is active: rounds wait for it now (for the grace at most), so that it can
    reach a head that would otherwise move away from it for ever."""
    entry.head, entry.holds_state = message.head, True
    if c.chain.head == GENESIS and entry.key == c.seed and message.head != GENESIS:
        c.begin_run(message.head)
    if entry.active or c.model is None or c.chain.index_of(message.head) < 0:
        return
    if c.chain.index - c.chain.index_of(message.head) > c.model.num_fragments:
        return
    for fragment in () if c.rules.gossips else range(c.model.num_fragments):
        version = c.chain.base(fragment)
        held = entry.digests.get(fragment)
        agreed, _ = agreed_state(c.roster.active(), fragment, version)
        if held is not None and held[0] == version and agreed not in (b"", held[1]):
            c.outlet.trace(ParityTrace(peer=entry.key, fragment=fragment, index=c.chain.index))
            _send_back(entry)
            return
    entry.active, entry.needs_state = True, False
    if c.rules.gossips:
        _introduce(c, now, entry)
    c.outlet.trace(ActiveTrace(peer=entry.key, peer_name=entry.name, index=c.chain.index))


def _introduce(c: Coordinator, now: float, entry: Entry) -> None:
    """Gossip: who holds a state may be matched, and must know who else does."""
    c.roster_feed.add(now, MemberActive(entry.key))


def needs_state(c: Coordinator, now: float, entry: Entry, message: NeedState) -> None:
    """A member cannot follow."""
    c.outlet.trace(NeedsStateTrace(peer=entry.key, reason=message.reason))
    held = entry.holds_state
    _send_back(entry)
    entry.holds_state = held  # of an earlier head: the swarm may have to go back to it


def _send_back(entry: Entry) -> None:
    entry.active, entry.needs_state, entry.holds_state = False, True, False
    entry.ready.clear()
    entry.digests.clear()
    entry.will_hold = b""


def serve_waiting(c: Coordinator, now: float) -> None:
    """Name donors, or the seed, to whoever waits for the state."""
    if c.model is None:
        return
    waiting = [e for e in c.roster.entered() if e.needs_state]
    states = (_states_of_one(c) if c.rules.gossips else _agreed_states(c)) if waiting else []
    if waiting and all(donors for _, _, donors in states):
        for entry in waiting:
            _send_donors(c, now, entry, states)
    elif waiting and c.chain.head == GENESIS:
        _name_seed(c, now, waiting)
    _restore_if_lost(c, now)


_States = list[tuple[int, bytes, list[bytes]]]
"""By fragment: digest of its state, and who holds it."""


def _agreed_states(c: Coordinator) -> _States:
    assert c.model is not None
    return [
        (fragment, *agreed_state(c.roster.active(), fragment, c.chain.base(fragment)))
        for fragment in range(c.model.num_fragments)
    ]


def _states_of_one(c: Coordinator) -> _States:
    """Gossip: states differ, so a newcomer copies that of one member, as it is now. One that moved on
    meanwhile says so, and the next one asks."""
    assert c.model is not None
    fragments = range(c.model.num_fragments)
    whole = [e for e in c.roster.active() if all(f in e.digests for f in fragments)]
    if not whole:
        return [(fragment, b"", []) for fragment in fragments]
    # Whoever is asked takes its turn, so that one who moves too fast is not asked for ever.
    donor = whole[c.num_donations % len(whole)]
    return [(fragment, donor.digests[fragment][1], [donor.key]) for fragment in fragments]


def _send_donors(c: Coordinator, now: float, entry: Entry, states: _States) -> None:
    entry.needs_state = False
    c.num_donations += 1
    for fragment, digest, donors in states:
        remaining = len(states) - fragment - 1
        version = c.chain.base(fragment)
        message = CatchUp(fragment, version, digest, tuple(donors), c.chain.head, c.chain.index, remaining)
        # Donors hear of it before they can hear of the next commit, so the state is still theirs.
        for donor in donors:
            c.outlet.send(now, donor, Serve(fragment, digest))
        c.outlet.send(now, entry.key, message)


def _name_seed(c: Coordinator, now: float, waiting: list[Entry]) -> None:
    seed = c.roster.entries.get(c.seed) if c.seed else None
    if seed is not None and seed.entered and not seed.needs_state:
        return  # the one that was named is at it
    c.seed = waiting[0].key
    waiting[0].needs_state = False
    c.outlet.trace(SeedTrace(peer=c.seed, peer_name=waiting[0].name))
    c.outlet.send(now, c.seed, Seed(c.roster.epoch))


def _restore_if_lost(c: Coordinator, now: float) -> None:
    head = c.chain.head
    entered = c.roster.entered()
    held = any(e.holds_state and head in (e.head, e.will_hold) for e in entered)
    if held or head == GENESIS or not entered:
        c.holderless_since = None
        return
    if c.holderless_since is None:
        c.holderless_since = now
    candidates = [e for e in entered if e.holds_state and c.chain.index_of(e.head) >= 0]
    if now - c.holderless_since < 2 * c.rules.failure_timeout_s:
        return
    if c.chain.index == 0:
        c.outlet.trace(SeedLostTrace(head=head))
        c.begin_run(GENESIS)
        c.holderless_since = c.seed = None
        for entry in entered:
            _send_back(entry)
        return
    if len(candidates) < 1:
        c.outlet.trace(StateLostTrace(head=head, index=c.chain.index))
        c.holderless_since = now
        return
    best = max(candidates, key=lambda e: c.chain.index_of(e.head))
    c.outlet.trace(RestoredTrace(lost=head, index=c.chain.index, peer=best.key))
    for current in list(c.rounds.values()):
        c.abort(now, current, "the state that it builds on is lost")
    c.holderless_since = None
    record = Record(
        head, c.chain.index + 1, ALL_FRAGMENTS, c.roster.epoch, c.next_serial(), 0, (), (), best.head
    )
    c.commit(now, record)
