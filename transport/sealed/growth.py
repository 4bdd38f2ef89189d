"""How many lanes a peer's bulk has: one more while that helps, and not for ever the most that are allowed.

Over a long path one connection fills a part of the line, and several fill more of it; on a short one they
cost threads and gain nothing. So after some busy seconds with n lanes the rate is compared with the best of
fewer: who gained a tenth goes on, who did not goes back and tries again much later. State only.
"""

from __future__ import annotations

from dataclasses import dataclass

from transport.effects import NEVER

HELPS = 1.1
"""One lane more must make bulk so much faster."""
SAMPLES = 3
"""Busy measurements with one number of lanes, of which the best counts."""
AGAIN_S = 600.0
BUSY_S = 1.0


class BusyRate:
    """How fast the bulk to one peer is while it fills its lanes for whole seconds."""

    def __init__(self) -> None:
        self._since: _Look | None = None

    def looked(self, now: float, num_lanes: int, size_bytes: int, *, is_busy: bool) -> float | None:
        """So many bytes in all have got over the lanes that stand, and some wait if it ``is_busy``. Bits per
        second, once for each busy second with the same lanes."""
        look, since = _Look(now, num_lanes, size_bytes), self._since
        if not is_busy:
            self._since = None
        elif since is None or since.num_lanes != num_lanes or since.size_bytes > size_bytes:
            self._since = look
        elif now - since.at >= BUSY_S:
            self._since = look
            return 8 * (size_bytes - since.size_bytes) / (now - since.at)
        return None


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    num_lanes: int
    size_bytes: int


class LaneGrowth:
    """One peer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.lanes = 1
        """How many to keep."""
        self._rates: list[float] = []
        self._best_of_fewer = 0.0
        self._from = NEVER

    def measured(self, now: float, rate_bps: float) -> bool:
        """Bulk filled all lanes for a while, at this rate. Whether `lanes` has changed."""
        if now < self._from:
            return False
        self._rates.append(rate_bps)
        if len(self._rates) < SAMPLES:
            return False
        best, self._rates = max(self._rates), []
        before = self.lanes
        if best < HELPS * self._best_of_fewer:
            self.lanes -= 1
            self._best_of_fewer, self._from = 0.0, now + AGAIN_S
        elif self.lanes < self._most:
            self.lanes += 1
            self._best_of_fewer = best
        else:
            self._from = now + AGAIN_S
        return self.lanes != before
