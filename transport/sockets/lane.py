"""One lane of a peer that we dial: which address is tried, when it is tried again, what waits.

State only; the driver opens and closes the lines. Nothing is retried in a rush: the wait doubles up to
two seconds, with jitter so that peers of a host that restarts do not come back in step (R4).
"""

from __future__ import annotations

from dataclasses import dataclass

from transport.sockets.libzmq import Dialer
from transport.sockets.wire import Outbox

ATTEMPT_S = 12.0
_FIRST_REDIAL_S = 0.1
_LAST_REDIAL_S = 2.0


@dataclass(slots=True)
class Lane:
    """A fresh line for every attempt; each failed one moves on to the next address."""

    peer: bytes
    lane: int
    addresses: tuple[str, ...]
    outbox: Outbox
    line: Dialer | None = None
    up: bool = False
    due: float = 0.0
    """When to dial again, or with a line that is not up, when to give the attempt up."""
    broken: str | None = None
    """Why the line is of no use any more; the driver hangs up at the end of its turn."""
    _failures: int = 0
    _tried: int = 0

    @property
    def address(self) -> str:
        """Where the present or next attempt goes."""
        return self.addresses[self._tried % len(self.addresses)]

    def came_up(self) -> None:
        """The handshake succeeded."""
        self.up = True
        self._failures = 0

    def went_down(self, now: float, jitter: float) -> None:
        """The attempt failed or the connection broke: another one is due a little later."""
        wait_s = min(_LAST_REDIAL_S, _FIRST_REDIAL_S * 2 ** min(self._failures, 8))
        self.due = now + wait_s * jitter
        if not self.up:
            self._failures += 1
            self._tried += 1
        self.up, self.broken = False, None
