"""The connections of libzmq's as sealed lanes see them: to ask over, to dial beside, to fall back to.

It owns none of them: `dialled` and `accepted` do.
"""

from __future__ import annotations

from transport.sockets.accepted import AcceptedLanes
from transport.sockets.dialled import DialledLanes
from transport.sockets.wire import Outgoing


class Control:
    """Of one driver; on its thread."""

    def __init__(self, dialled: DialledLanes) -> None:
        self.accepted: AcceptedLanes | None = None
        """Where others come, if they can."""
        self._dialled = dialled

    def say(self, peer: bytes, message: Outgoing) -> None:
        """Send over the control connection, if it stands."""
        if not self._dialled.send(peer, message) and self.accepted is not None:
            self.accepted.send(peer, message)

    def dialled(self) -> list[bytes]:
        """The peers that we dial."""
        return self._dialled.peers()

    def reached(self, peer: bytes) -> str | None:
        """The machine to which our control connection leads; None unless we dialled one that stands."""
        return self._dialled.reached(peer)

    def has_bulk(self, peer: bytes) -> bool:
        """Whether we dial a peer for bulk too."""
        return self._dialled.has_bulk(peer)

    def has_stream(self, peer: bytes) -> bool:
        """Whether we dial a peer for streams too."""
        return self._dialled.has_stream(peer)

    def is_up(self, peer: bytes, lane: int) -> bool:
        """Whether libzmq's connection of a lane that we dial stands."""
        return self._dialled.is_up(peer, lane)

    def refuse(self, peer: bytes, reason: str) -> None:
        """A peer broke the rules: it is closed, and kept out for a while if it dials."""
        self._dialled.break_all(peer, reason)
        if self.accepted is not None:
            self.accepted.refuse_peer(peer, reason)
