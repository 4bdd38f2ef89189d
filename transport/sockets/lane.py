"""One lane of a peer that we dial: its present connection, and what waits to be sent over it.

State only; `transport.sockets.dialled` opens and closes connections, when and where `transport.redial` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from transport.redial import Redial
from transport.sockets.libzmq import Dialer
from transport.sockets.names import Lookup
from transport.sockets.wire import Outbox


@dataclass(slots=True)
class Lane:
    """One lane, with a fresh dialer for every attempt."""

    peer: bytes
    lane: int
    redial: Redial
    outbox: Outbox
    dialer: Dialer | None = None
    refused: bool = False
    """The present attempt failed since the other machine refused it."""
    lookup: Lookup | None = None
    """The question for the name that is to be dialled."""
    is_held: bool = False
    """What waits is held back by what left before, and is tried again when that has had its time."""
    target: tuple[str, int] | None = None
    """Where the present or last dialer went, in numbers."""
    broken: str | None = None
    """Why the connection is of no use any more; the driver hangs up at the end of its turn."""
