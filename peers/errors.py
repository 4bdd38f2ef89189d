"""What a person or a disk did wrong to identities, tickets and journals: one tree of errors.

    PeersError
    ├── IdentityError       the identity file cannot be used; the text says what to do
    ├── JournalError        the journal is no journal of ours, or cannot be used
    │   └── BadEntry        one entry of it does not follow from those before
    ├── ResumeError         the run cannot go on from the record that its owner named
    └── TicketError         a ticket that cannot be used; never contains the ticket
        ├── NotATicket      the text is something else
        ├── MistypedTicket  characters are missing or changed
        ├── NewerTicket     the host speaks a newer version
        └── ExpiredTicket   the time of the invite is over

What other peers do wrong is no exception: it is a refusal, a closed link or a fate (`peers.protocol.events`).
"""

from __future__ import annotations


class PeersError(Exception):
    """Any error of this package that a caller may want to catch; one line says why and what to do."""


class IdentityError(PeersError):
    """The identity cannot be used; one line says why and what to do."""


class JournalError(PeersError):
    """The file is no journal of ours, or cannot be used."""


class BadEntry(JournalError):
    """An entry does not follow from those before it."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"entry {number} of the journal cannot be used: {reason}")
        self.number = number
        """The first entry is number 1."""
        self.reason = reason


class ResumeError(PeersError):
    """The run cannot go on from the record that its owner named."""


class TicketError(PeersError):
    """A ticket cannot be used; one line says why and what to do. Never contains the ticket."""


class NotATicket(TicketError):
    """The text is something else."""


class MistypedTicket(TicketError):
    """The checksum does not fit: characters are missing or changed."""


class NewerTicket(TicketError):
    """The host speaks a newer version than we do."""


class ExpiredTicket(TicketError):
    """The time of the invite is over."""
