"""The run's tickets, as a status shows them: never a secret, for that is not known here.

They come from the journal and from the owner's orders, and the one that a host prints from its program.
Which of them opens what is decided at the door.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peers.coordinator.journal import InviteMade, InviteRevoked, PeerInvited
from peers.coordinator.roster import Roster
from transport.errors import BadFrame
from transport.keys import short
from transport.limits import Limits

_MAX_COUNT = 1 << 62


@dataclass(frozen=True, slots=True)
class TicketStatus:
    """One ticket."""

    name: str
    """The first characters of its public key."""
    uses: int
    """Identities that it may let in, ever; 0 if nothing was said."""
    num_used: int
    expires_at: int
    """In unix seconds."""
    revoked: bool

    def plain(self) -> list[Any]:
        return [self.name, self.uses, self.num_used, self.expires_at, self.revoked]

    @classmethod
    def from_plain(cls, plain: object) -> TicketStatus:
        """Raises `BadFrame`."""
        if not isinstance(plain, list) or len(plain) != 5:
            raise BadFrame("a ticket is no list of five")
        name, uses, num_used, expires_at, revoked = plain
        counts = (uses, num_used, expires_at)
        if not isinstance(name, str) or len(name) > 64 or not isinstance(revoked, bool):
            raise BadFrame("a ticket has no name, or is neither revoked nor not")
        if any(type(each) is not int or not 0 <= each <= _MAX_COUNT for each in counts):
            raise BadFrame("a ticket's numbers are no counts")
        return cls(name, uses, num_used, expires_at, revoked)


class Tickets:
    """The newest ones of a run."""

    def __init__(self, limits: Limits) -> None:
        self._max = 2 * limits.invites
        self._made: dict[bytes, InviteMade] = {}
        self._revoked: set[bytes] = set()

    def replay(self, entry: object) -> None:
        """One entry of the journal, or one that is about to be."""
        match entry:
            case InviteMade():
                self._made.pop(entry.key, None)
                self._made[entry.key] = entry
                while len(self._made) > self._max:
                    oldest = next(iter(self._made))
                    del self._made[oldest]
                    self._revoked.discard(oldest)
            case InviteRevoked() if entry.key in self._made:
                self._revoked.add(entry.key)

    def status(self, roster: Roster) -> tuple[TicketStatus, ...]:
        """All of them, the newest last."""
        return tuple(
            TicketStatus(
                short(key), made.uses, roster.num_invited[key], made.expires_at, key in self._revoked
            )
            for key, made in self._made.items()
        )


def remember_when_invited(roster: Roster, entries: list[Any], began_at: float) -> None:
    """Identities that came within the last hour count for that hour after a restart too. ``began_at`` is the
    core's second 0 in unix seconds; a clock that was put back makes nobody newer than the start."""
    for entry in entries:
        if isinstance(entry, PeerInvited) and entry.key in roster.entries and entry.at:
            roster.entries[entry.key].certified_at = entry.at - began_at
