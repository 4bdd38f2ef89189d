"""The gate through which bulk leaves a process whose upload is limited: a clock and a lock about a bucket.

What leaves is counted by whoever sends it: threads that serve sealed lanes wait here, the driver's thread
asks when it may. Control is counted and never waits. `transport.sealed.upload` decides how long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from transport.sealed.upload import Upload

_LOOK_S = 0.25
"""Whoever waits looks so often whether it still has to."""


class UploadGate:
    """Any thread may call any of it."""

    def __init__(
        self,
        bytes_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._upload, self._clock, self._sleep = Upload(bytes_per_s), clock, sleep
        self._lock = threading.Lock()
        self._counted_until = clock()
        self.is_limited = bytes_per_s is not None
        self.slice_bytes = self._upload.slice_bytes
        """Hand at most so many to a socket at a time."""

    def count(self, size_bytes: int) -> None:
        """So many bytes leave, and nobody waits for that now."""
        if self.is_limited:
            self._counted_until = self._clock() + self._take(size_bytes)

    def wait_s(self) -> float:
        """Seconds until bulk of whoever counts may leave, which is when all has had its time that left
        before its last; what others have sent since does not hold it back, or they always would."""
        return max(0.0, self._counted_until - self._clock()) if self.is_limited else 0.0

    def wait_after(self, size_bytes: int, is_over: Callable[[], bool] = lambda: False) -> None:
        """So many bytes have left: return when more may, or soon after it ``is_over``."""
        left = self._take(size_bytes) if self.is_limited else 0.0
        while left > 0.0 and not is_over():
            self._sleep(min(left, _LOOK_S))
            left -= _LOOK_S

    def _take(self, size_bytes: int) -> float:
        with self._lock:
            return self._upload.take(self._clock(), size_bytes)
