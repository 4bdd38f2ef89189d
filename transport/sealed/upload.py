"""At most so many bytes per second leave: one bucket for all that carries bulk, whatever it goes over.

Whoever hands bytes to a socket counts them here and waits as long as is said before the next ones. So the
mean over some seconds is exact, and what leaves at once is a small part of a second. State only: the caller
has the clock, and a lock if several threads send.
"""

from __future__ import annotations

BURST_S = 0.05
"""At most so much of a second's bytes leave at once."""
LEAST_SLICE = 2048
MOST_SLICE = 1 << 20
NO_SLICE = 1 << 62


class Upload:
    """``bytes_per_s`` None is no limit."""

    def __init__(self, bytes_per_s: float | None) -> None:
        if bytes_per_s is not None and not bytes_per_s > 0:
            raise ValueError(f"at most {bytes_per_s} bytes per second are not a rate")
        self._bytes_per_s = bytes_per_s
        self._free_at: float | None = None
        """When all that was counted has had its time."""

    @property
    def slice_bytes(self) -> int:
        """Hand at most so many to a socket at a time."""
        if self._bytes_per_s is None:
            return NO_SLICE
        return int(min(MOST_SLICE, max(LEAST_SLICE, self._bytes_per_s * BURST_S)))

    def slice_of(self, seconds: float) -> int:
        """Bytes that take so long."""
        return NO_SLICE if self._bytes_per_s is None else int(max(LEAST_SLICE, self._bytes_per_s * seconds))

    def debt_s(self, now: float) -> float:
        """Seconds until all that was counted has had its time."""
        return 0.0 if self._free_at is None else max(0.0, self._free_at - now)

    def take(self, now: float, size_bytes: int) -> float:
        """So many bytes leave now. Seconds until the next ones may."""
        if self._bytes_per_s is None:
            return 0.0
        # What was not used is lost but for a burst: whoever was idle may not catch up.
        earliest = now - BURST_S
        self._free_at = max(self._free_at if self._free_at is not None else earliest, earliest)
        self._free_at += size_bytes / self._bytes_per_s
        return max(0.0, self._free_at - now)
