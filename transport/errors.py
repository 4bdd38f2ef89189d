"""What goes wrong below a swarm: one tree of errors, each with whose fault it is.

TransportError
├── KnockRefused    the host is there and does not admit the invite: ask for a new ticket
├── KnockTimeout    nobody answered in time: may be tried again
├── DialFailed      a connection cannot even be tried: no descriptor is left, or there is no such address
├── DriverStopped   the network thread has ended; its cause says why
└── PeerFault       what a peer sent cannot be used: its link is closed, nothing else changes
    ├── BadFrame    a header, message or chunk that our side never makes
    ├── BadMessage  a message of a wrong shape on a socket
    ├── BadRecord   bytes of a bulk lane that nobody with its key sent
    └── Poisoned    a contribution that must not be added up
"""

from __future__ import annotations


class TransportError(Exception):
    """The transport cannot do what was asked; one line says why."""


class KnockRefused(TransportError):
    """The host is there and does not admit the invite."""


class KnockTimeout(TransportError):
    """No reply came in time."""


class DialFailed(TransportError):
    """A connection cannot even be tried: it may be tried again, like one that nobody answered."""


class DriverStopped(TransportError):
    """The driver has stopped, or was stopped by an error which is its cause."""


class PeerFault(TransportError):
    """A peer sent what cannot be used. It is closed or left out; it never ends a process."""


class BadFrame(PeerFault):
    """A peer sent something that is no valid message: it is to be closed."""


class BadMessage(PeerFault):
    """A message has a shape that our side never makes."""


class BadRecord(PeerFault):
    """The bytes of a bulk lane are not what the other end sealed. Whoever is between can do that: the lane is
    closed, and nobody is kept out for it."""


class Poisoned(PeerFault):
    """A contribution must not be added up: it is not finite or not of our format."""

    def __init__(self, member: int, reason: str, *, alone: bool = True) -> None:
        super().__init__(f"member {member}: {reason}")
        self.member = member
        self.reason = reason
        self.alone = alone
        """The bytes alone show it, whatever the others' are."""
