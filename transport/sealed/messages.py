"""What two drivers say to each other over the control connection, to agree on a sealed lane.

They never reach the core, and are no frames of a link. Secrets are in no repr; nothing of this is traced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from transport.frames import Between, kind
from transport.sealed.keys import ID_BYTES, SECRET_BYTES

LaneNumber = Annotated[int, Between(1, 255)]
Port = Annotated[int, Between(0, 65535)]
Secret = Annotated[bytes, Between(SECRET_BYTES, SECRET_BYTES)]
ConnectionId = Annotated[bytes, Between(ID_BYTES, ID_BYTES)]


@kind(165)
@dataclass(frozen=True, slots=True)
class LaneAsk:
    """Whoever dialled the control connection wants to dial a lane."""

    lane: LaneNumber
    secret: Secret = field(repr=False)


@kind(166)
@dataclass(frozen=True, slots=True)
class LaneOffer:
    """It may, at this port of the host where it reached the control connection, once and soon; port 0 says
    that there is no lane to be had, and bulk goes over CURVE. If it answers no question, the connection that
    it names has ended."""

    lane: LaneNumber
    port: Port
    connection: ConnectionId = field(repr=False)
    secret: Secret = field(repr=False)
    asked: ConnectionId = field(repr=False)
    """Names the question that this answers (`name_of`): it may have been put anew since."""


NO_QUESTION = bytes(ID_BYTES)


def name_of(asked: LaneAsk) -> bytes:
    """Says which question an answer is for."""
    return asked.secret[:ID_BYTES]
