"""What belongs to others, as one core has it, and what a hostile member's frame changed of it.

Others are all but the hostile member. Commits, rounds that open, and attempts that begin anew are the life of
the run; that somebody is out, set aside, told to stop or void, or that a digest or a fate changes, is damage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peers.coordinator.journal import CommitWritten
from peers.node import Node
from peers.protocol import messages
from tests.hostile.stages import HOSTILE_KEY
from tests.sim.doors import HOST, key_of
from transport.effects import Close, Deliver, Effect, Send, Store
from transport.frames import from_items, unpack, unpack_items

HURTS_TO_HEAR = (
    messages.Abort,
    messages.Rejected,
    messages.Refused,
    messages.Finished,
    messages.MemberGone,
    messages.Seed,
    messages.CatchUp,
)
"""What the host says to an honest member only when something happened to that member, or to the run."""
HURTS_TO_SAY = (messages.NeedState, messages.Leave, messages.Decline, messages.Withdraw)
"""What an honest member says to the host when it gives something up."""


@dataclass
class Others:
    """Everything of others that a core holds."""

    stands: bool
    """The core takes part: it lets its peers connect."""
    members: dict[bytes, Any] = field(default_factory=dict)
    lost: dict[int, set[bytes]] = field(default_factory=dict)
    """By round: others who are left out of it."""
    own: Any = None
    """An honest member's own: head, contributions, rounds, and whom it knows."""


def others_of(core: Node) -> Others:
    """Look at a core."""
    if core.coordinator is None:
        return _at_member(core)
    others = Others(stands=core.admits(core.key) is not None or bool(core.coordinator.roster.entries))
    for key, entry in core.coordinator.roster.entries.items():
        if key != HOSTILE_KEY:
            others.members[key] = (
                entry.member_state,
                entry.name,
                entry.addresses,
                dict(entry.checks),
                entry.num_penalties,
                entry.kicked,
                entry.has_place,
                key in core.links.by_peer or key == core.key,
            )
    for course in core.coordinator.state.courses.values():
        for current in course.rounds.values():
            others.lost[current.serial] = set(current.lost) - {HOSTILE_KEY}
    return others


def _at_member(core: Node) -> Others:
    member = core.member
    assert member is not None
    others = Others(stands=core.admits(key_of(HOST)) is not None)
    for key, entry in member.membership.others.items():
        if key != HOSTILE_KEY:
            others.members[key] = (entry.name, entry.addresses, key in core.links.by_peer)
    running = member.exchanges.running.items()
    offered = member.contributions.offered.items()
    others.own = (
        member.versions.head,
        member.active,
        {serial: set(each.exchange.members) - {HOSTILE_KEY} for serial, each in running},
        {fragment: (each.number, each.serial) for fragment, each in offered},
        dict(member.contributions.tokens_by_fate),
    )
    return others


def damage(before: Others, after: Others, effects: list[Effect]) -> list[str]:
    """What happened to others, a line each."""
    found = [] if after.stands or not before.stands else ["the process steps down"]
    if not before.own and not after.own:
        found += _damage_at_host(before, after, effects)
    elif before.own != after.own:
        found.append(f"its own changed from {before.own} to {after.own}")
    for key, held in before.members.items():
        if after.members.get(key) != held:
            found.append(f"{key.hex()[:8]} was {held} and is {after.members.get(key)}")
    for effect in effects:
        found += _hurts(effect, host=before.own is None)
    return found


def _damage_at_host(before: Others, after: Others, effects: list[Effect]) -> list[str]:
    stored = [unpack(effect.entry) for effect in effects if isinstance(effect, Store)]
    records = [entry.commit() for entry in stored if isinstance(entry, CommitWritten)]
    committed = {record.serial for record in records}
    found = [f"a record restores: {record}" for record in records if record.restores]
    for entry in stored:
        about = getattr(entry, "key", HOSTILE_KEY)
        if not isinstance(entry, CommitWritten) and about != HOSTILE_KEY:
            found.append(f"the journal says {type(entry).__name__} of somebody else")
    for serial, lost in before.lost.items():
        if serial not in after.lost and serial not in committed:
            found.append(f"round {serial} is void")
        elif serial in after.lost and not after.lost[serial] <= lost:
            found.append(f"round {serial} goes on without {len(after.lost[serial] - lost)} honest members")
    return found


def _hurts(effect: Effect, host: bool) -> list[str]:
    if isinstance(effect, Close) and effect.peer != HOSTILE_KEY:
        return [f"somebody else is closed: {effect.reason}"]
    if isinstance(effect, Deliver) and not host:
        return [f"training is told {effect.event}"]
    if not isinstance(effect, Send) or effect.peer == HOSTILE_KEY:
        return []
    items = unpack_items(effect.header)
    said = from_items(items[1]) if len(items) == 2 else None
    if isinstance(said, messages.MemberGone) and said.key == HOSTILE_KEY:
        return []
    if isinstance(said, HURTS_TO_HEAR if host else HURTS_TO_SAY):
        return [f"{effect.peer.hex()[:8]} is told {said}"]
    return []
