"""Whether a member hears its coordinator: it was silent for too long, cannot write its journal, or is back.

A coordinator whose disk takes nothing says so again and again, and nothing else meanwhile; that it is back is
told by whatever else comes. In all cases the member trains on. State only; events go to ``deliver``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from peers.protocol.events import CoordinatorBack, CoordinatorDiskFull, CoordinatorLost


class CoordinatorWatch:
    """Of one member whose coordinator is another process."""

    def __init__(self, timeout_s: float, deliver: Callable[[object], None]) -> None:
        self._timeout_s, self._deliver = timeout_s, deliver
        self._started_at = 0.0
        self._lost = False
        self._full_at = math.inf
        """When it said last that it cannot write; infinity if it was heard since."""

    def start(self, now: float) -> None:
        """Silence counts from here."""
        self._started_at = now

    def disk_full(self, now: float) -> None:
        """It says that it cannot write its journal."""
        if self._full_at == math.inf:
            self._deliver(CoordinatorDiskFull())
        self._full_at = now

    def look(self, now: float, heard_at: float) -> None:
        """Time has passed; it gave a sign of life last at ``heard_at``."""
        silent = now - max(heard_at, self._started_at)
        if silent > self._timeout_s:
            if not self._lost:
                self._lost = True
                self._deliver(CoordinatorLost(silent))
        elif self._lost or heard_at > self._full_at:
            self._lost, self._full_at = False, math.inf
            self._deliver(CoordinatorBack())
