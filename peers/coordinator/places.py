"""How many identities a ticket may let in, so that no holder of one keeps others out or fills the run.

A ticket that was given a number of uses lets in that many identities, ever; one that was not, at most a
number per hour (`transport.limits`). Either way those that are here, or were lately, are at most half of the
run's places, unless the uses say more. Which tickets a journal knows is read here too. Decides nothing else.
"""

from __future__ import annotations

from typing import Any

from peers.coordinator.journal import InviteMade, InviteRevoked, PlaceGivenBack
from peers.coordinator.roster import Roster
from peers.coordinator.state import RunState
from peers.protocol.messages import Refused
from transport.frames import pack
from transport.limits import Limits

_HOUR_S = 3600.0


def invites_in(entries: list[Any]) -> dict[bytes, InviteMade | None]:
    """The tickets that a journal knows, by key; None for one that was revoked."""
    found: dict[bytes, InviteMade | None] = {}
    for entry in entries:
        if isinstance(entry, InviteMade):
            found[entry.key] = entry
        elif isinstance(entry, InviteRevoked):
            found[entry.key] = None
    return found


def refusal(
    roster: Roster, limits: Limits, max_members: int, now: float, key: bytes, invite: bytes, uses: int
) -> Refused | None:
    """Why a ticket does not let an identity in that has no place; None if it does."""
    of_ticket = [entry for entry in roster.entries.values() if entry.invite == invite]
    if key not in roster.entries:
        if uses and roster.num_invited[invite] >= uses:
            return Refused(
                "spent",
                f"the ticket was good for {uses} worker{'s' * (uses != 1)}: ask the host for a new one",
            )
        lately = sum(now - entry.certified_at < _HOUR_S for entry in of_ticket)
        if not uses and lately >= limits.identities_per_hour:
            return Refused("often", f"the ticket let {lately} new workers in within an hour: try again later")
    places = max(uses, max_members // 2)
    if sum(entry.has_place and not entry.kicked for entry in of_ticket) >= places:
        return Refused("full", f"all {places} places of this ticket are taken: ask the host for another one")
    return None


def give_back(state: RunState, now: float) -> None:
    """Whoever was away for long has no place any more."""
    for entry in state.roster.entries.values():
        away = now - entry.absent_since >= state.limits.absence_s and not entry.entered
        if away and entry.has_place and entry.key != state.me:
            state.outlet.store(pack(PlaceGivenBack(entry.key)))
            entry.has_place = False
