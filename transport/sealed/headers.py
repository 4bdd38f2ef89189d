"""Which two sessions a link is between, as its own greetings say: a sealed lane is made for these two.

The driver learns it by looking at what its core sends; nothing that a peer says counts.
"""

from __future__ import annotations

from transport.frames import unpack_items
from transport.sealed.keys import Session

HELLO = 1
"""The kind of a greeting in `transport.link.messages`."""
NOBODY = (0, 0)
"""The session of whoever did not greet yet."""

Sessions = tuple[Session, Session]
"""Ours, and the peer's."""


def sessions_of(header: bytes) -> Sessions | None:
    """Between which sessions a greeting of our own core is; None for what is no greeting, or is said to one
    who is not known yet."""
    if header[2:3] != bytes([HELLO]):
        return None
    hello = unpack_items(header)[0]
    ours, theirs = (hello[1], hello[2]), (hello[3], hello[4])
    return None if theirs == NOBODY else (ours, theirs)
