"""For whom a worker waits: what it knows itself, and what its host says in its status.

Only while nothing was committed for a while, the host is asked, and less and less often; one that is silent
is not asked. Pure but for ``ask``, which is handed in, may block, and raises an error if nobody answers.
"""

from __future__ import annotations

from collections.abc import Callable

from diloco.errors import DilocoError
from peers.coordinator.status import RunStatus
from peers.coordinator.waiting import too_few
from peers.errors import PeersError
from peers.protocol.events import (
    BecameActive,
    CoordinatorBack,
    CoordinatorDiskFull,
    CoordinatorLost,
    FellBehind,
    PeerLeft,
    PeersJoined,
    RoundCommitted,
    Swapped,
)
from transport.errors import TransportError

QUIET_S = 4.0
"""So long after a commit nothing is asked."""
_ASK_EVERY_S, _MAX_ASK_EVERY_S = 5.0, 60.0


def reason_for(me: bytes, status: RunStatus) -> str:
    """What a host's status says of waits, as the worker with this key is to hear it."""
    awaited = [each for each in status.members if each.awaited]
    if all(each.key != me for each in awaited):
        return status.waits
    rest = len(awaited) - 1
    return "the run waits for this worker" + (f" and {rest} more" if rest else "")


class WorkerWaits:
    """What one worker heard, by the training thread, and what follows, on another one."""

    def __init__(self, min_peers: int, now: float, ask: Callable[[], str]) -> None:
        self._min_peers, self._ask = min_peers, ask
        self._moved_at = self._ask_at = now
        self._lost = self._disk_full = self._active = False
        self._others: frozenset[bytes] = frozenset()
        self._answer = ""

    def hear(self, now: float, event: object) -> None:
        """One event of the member."""
        match event:
            case RoundCommitted() | Swapped():
                self._moved_at = now
            case BecameActive():
                self._active, self._moved_at = True, now
            case FellBehind():
                self._active = False
            case CoordinatorLost():
                self._lost = True
            case CoordinatorDiskFull():
                self._disk_full = True
            case CoordinatorBack():
                self._lost, self._disk_full, self._ask_at = False, False, now
            case PeersJoined():
                self._others |= {key for key, _ in event.members}
            case PeerLeft():
                self._others, self._ask_at = self._others - {event.key}, now

    def reason(self, now: float) -> str:
        """The reason in words; empty while nothing is waited for, as far as this worker can know."""
        rest = "this worker trains on" if self._active else "this worker stands still without its state"
        if self._disk_full:
            return f"the host's disk is full, or fails; {rest}. The run goes on once the host can write again"
        if self._lost:
            return f"the host is silent; {rest}. The run goes on when diloco host runs again with its state"
        quiet_s = now - self._moved_at
        if quiet_s < QUIET_S:
            self._answer, self._ask_at = "", 0.0
        elif now >= self._ask_at:
            self._ask_at = now + max(_ASK_EVERY_S, min(_MAX_ASK_EVERY_S, quiet_s / 2))
            try:
                self._answer = self._ask()
            except (DilocoError, PeersError, TransportError):
                self._answer = self._own_reason()
        return self._answer

    def _own_reason(self) -> str:
        num_here = 1 + len(self._others)
        if num_here < self._min_peers:
            return too_few(num_here, self._min_peers)
        return "" if self._active else "nobody has handed out the shared state; see diloco status at the host"
