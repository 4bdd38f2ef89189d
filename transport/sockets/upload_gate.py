"""The gate through which bulk leaves a process: a clock and a lock about a limit, and about streams.

Two things can hold bulk up here: that the upload is limited (`transport.sealed.upload`), and that a stream is
under way, which has bulk that has time wait in small slices (`transport.yielding`). Threads that serve sealed
lanes wait here, the driver's thread asks when it may. Control is counted and never waits. Where neither is
so, nobody takes the lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

from transport.sealed.upload import Upload
from transport.yielding import Uplink

_LOOK_S = 0.25
"""Whoever waits looks so often whether it still has to."""
_ASK_S = 0.002
"""The kernel is asked so often how far connections are."""
_SLICE_S = 0.01


class Progress(NamedTuple):
    """How far a connection is."""

    handed: int
    """Bytes that were handed to the network, in all."""
    heard: int
    """Those of them that the other machine has."""
    round_trip_s: float
    """The least that was seen, of the distance alone."""


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
        self.is_shared = False
        """A stream was under way when somebody looked last."""
        self._uplink = Uplink()
        self._flows: dict[Hashable, tuple[Callable[[], Progress | None], bool]] = {}
        self._asked_at = clock()

    # -- a limited upload ---------------------------------------------------------------------

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

    # -- streams ------------------------------------------------------------------------------

    def join(self, flow: Hashable, progress: Callable[[], Progress | None], *, patient: bool) -> None:
        """A connection carries bulk from now on; ``patient`` if that has time. ``progress`` may be called by
        any thread, and says nothing once it is gone."""
        with self._lock:
            self._flows[flow] = progress, patient

    def leave(self, flow: Hashable) -> None:
        """It carries none any more."""
        with self._lock:
            self._flows.pop(flow, None)
            self._uplink.forget(flow)

    def streams(self) -> None:
        """Bytes of a stream are about to leave."""
        with self._lock:
            self._uplink.streamed(self._clock())
            self.is_shared = True

    def patient_wait_s(self, size_bytes: int) -> float:
        """Seconds until so many bytes that have time may leave, of whoever does not wait here: as `wait_s`,
        and for streams."""
        return max(self.wait_s(), self._shared_wait_s(size_bytes, None) if self.is_shared else 0.0)

    def wait_turn(self, flow: Hashable, size_bytes: int, is_over: Callable[[], bool]) -> int:
        """Return how many of these bytes, which have time, may be handed over: when they may, or soon after
        it ``is_over``."""
        size = size_bytes
        while self.is_shared and not is_over():
            size = min(size_bytes, self._shared_slice())
            wait_s = self._shared_wait_s(size, flow)
            if not wait_s:
                break
            self._sleep(min(wait_s, _LOOK_S))
        return size

    # -- inside -------------------------------------------------------------------------------

    def _take(self, size_bytes: int) -> float:
        with self._lock:
            return self._upload.take(self._clock(), size_bytes)

    def _shared_slice(self) -> int:
        return min(self._uplink.slice_bytes, self._upload.slice_of(_SLICE_S))

    def _shared_wait_s(self, size_bytes: int, flow: Hashable) -> float:
        """For a ``flow`` that is going to hand them over at once, they count as handed if it may."""
        with self._lock:
            now = self._clock()
            self.is_shared = self._uplink.is_shared(now)
            self._ask_all(now)
            wait_s = self._uplink.wait_s(now, size_bytes)
            if self.is_limited and self.is_shared:
                wait_s = max(wait_s, self._upload.debt_s(now))
            if not wait_s and (known := self._flows.get(flow)) is not None and (far := known[0]()):
                self._tell(now, flow, far._replace(handed=far.handed + size_bytes), patient=known[1])
            return wait_s

    def _ask_all(self, now: float) -> None:
        if now - self._asked_at < _ASK_S:
            return
        self._asked_at = now
        for flow, (progress, patient) in list(self._flows.items()):
            if (far := progress()) is None:
                self._uplink.forget(flow)
            else:
                self._tell(now, flow, far, patient=patient)

    def _tell(self, now: float, flow: Hashable, far: Progress, *, patient: bool) -> None:
        self._uplink.told(now, flow, far.handed, far.heard, far.round_trip_s, patient=patient)
