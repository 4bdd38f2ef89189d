"""How much bulk that has time may be under way while a stream is: one rule, which both drivers ask (PP11).

What a stage streams is late by every byte before it; exchanges and states have time. So while a stream is
under way, they may have `HELD_S` of the uplink's time queued on the way, over all peers together, beside what
the distance takes: then an activation waits for no more than that. And while bytes of a stream wait to leave,
the others get `SHARE` of the line: enough to get on at all. The uplink is what was measured of late: bytes
that got to other machines, of streams too. State only, given the time: what was handed to the network, and
what of it has got there, is told by whoever drives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from transport.effects import NEVER

HELD_S = 0.03
"""Seconds of the uplink that bulk which has time may take before a stream. The bound is 50 ms, the rest for
what measuring gets wrong, and for what comes back the other way, as acknowledgements wait in its queue."""
SHARE = 0.05
"""Of the line, while bytes of a stream wait to leave."""
UNDER_WAY_S = 30.0
"""A stream is under way for so long after its last frame: between two microbatches the line may be idle."""
LEAST_BYTES = 48 * 1024
"""So many may be under way at any time: before anything is measured, and on the slowest line."""
LEAST_SLICE, MOST_SLICE = 16 * 1024, 1 << 20
_SLICE_S = 0.005
_EPOCH_S = 0.1
"""The rate of one connection is the mean over so long, or over a round trip."""
_LINE_EPOCH_S = 0.25
"""That of the line over so long: a shorter one shows more than there is, when bytes come in lumps."""
_MEMORY_S = 10.0
"""The fastest that was seen in so long is what the line can do."""
_GATHERS_S = 0.02
_LEAST_FASTER, _MOST_FASTER = 0.25, 0.5
"""Bulk leaves faster than the rate that was seen by so much, or a line that is faster would never show it;
and by less where more than `_GATHERS_S` would gather until it is heard what got there."""
_LEAST_WAIT_S, _MOST_WAIT_S = 0.002, 0.02
_LONGEST_TURN_S = 1.0
"""At least so often bulk that has time has its share: the line may be faster than was seen."""


@dataclass(slots=True)
class _Flow:
    """One connection."""

    patient: bool
    handed: int
    heard: int
    round_trip_s: float = 0.0
    rate: float = 0.0
    """Bytes per second over the last epoch."""
    epoch_at: float = NEVER
    epoch_heard: int = 0
    told_at: float = NEVER

    @property
    def under_way(self) -> int:
        return self.handed - self.heard

    def measure(self, now: float) -> None:
        elapsed_s = now - self.epoch_at
        if elapsed_s >= max(_EPOCH_S, self.round_trip_s):
            self.rate = (self.heard - self.epoch_heard) / elapsed_s
            self.epoch_at, self.epoch_heard = now, self.heard


class Uplink:
    """What one process sends, over all its connections."""

    def __init__(self) -> None:
        self._streamed_at = NEVER
        self._turn_at = NEVER
        """When patient bytes have their share next, while streams wait to leave."""
        self._flows: dict[Hashable, _Flow] = {}
        self._under_way = 0
        """Bytes of patient flows that were handed over and have not got there."""
        self._queued, self._queued_at = 0.0, 0.0
        """Those of them that wait at the line itself, as far as its rate tells, and of when that is. What is
        handed over at once after a pause all waits there, and nothing of it is on the way."""
        self._longest_s = 0.0
        """The longest round trip of a patient flow."""
        self._heard_bytes = 0
        self._epoch_at = NEVER
        self._epoch_bytes = 0
        self._rates: deque[tuple[float, float]] = deque()
        """When so many bytes per second got over: each less than those before it."""

    def streamed(self, now: float) -> None:
        """Bytes of a stream are about to leave."""
        self._streamed_at = now

    def is_shared(self, now: float) -> bool:
        """Whether a stream is under way: only then is anything to be told here."""
        return now - self._streamed_at < UNDER_WAY_S

    @property
    def rate(self) -> float:
        """Bytes per second that the uplink has carried of late; 0 before it was measured."""
        return self._rates[0][1] if self._rates else 0.0

    @property
    def slice_bytes(self) -> int:
        """Hand over at most so many at a time."""
        return int(min(MOST_SLICE, max(LEAST_SLICE, self.rate * _SLICE_S)))

    def told(
        self, now: float, flow: Hashable, handed: int, heard: int, round_trip_s: float, *, patient: bool
    ) -> None:
        """Of one connection so many bytes in all were handed over, and so many have got there; the distance
        alone takes so long until it is known that one did."""
        known = self._flows.get(flow)
        if known is None:
            known = self._flows[flow] = _Flow(patient, handed, heard, epoch_at=now, epoch_heard=heard)
            self._under_way += known.under_way * patient
            self._queue(now, known.under_way * patient)
        else:
            if patient:
                self._under_way += handed - heard - known.under_way
                self._queue(now, handed - known.handed)
                self._have_turn(now, handed - known.handed)
            if now - known.told_at < _LINE_EPOCH_S:
                self._heard_bytes += heard - known.heard
            else:  # while nobody looked: of then, and not of the epoch that is measured now
                known.epoch_at, known.epoch_heard = now, heard
            known.handed, known.heard = handed, heard
        known.round_trip_s, known.told_at = round_trip_s, now
        known.measure(now)
        self._measure(now)

    def forget(self, flow: Hashable) -> None:
        """A connection is gone, and what was under way over it."""
        known = self._flows.pop(flow, None)
        if known is not None and known.patient:
            self._under_way -= known.under_way

    def wait_s(self, now: float, size_bytes: int) -> float:
        """Seconds until patient bytes may be asked for again; 0: so many may be handed over now."""
        if not self.is_shared(now):
            return 0.0
        if now < self._turn_at and self._stream_waits():
            return _LEAST_WAIT_S
        if not self._under_way:
            return 0.0
        over_all = self._under_way - self._allowed()
        self._queue(now, 0)
        excess = size_bytes + max(over_all, self._queued - self._held_bytes)
        if excess <= 0:
            return 0.0
        wait_s = excess / self.rate if self.rate else _LEAST_WAIT_S
        return min(_MOST_WAIT_S, max(_LEAST_WAIT_S, wait_s))

    # -- inside -------------------------------------------------------------------------------

    def _stream_waits(self) -> bool:
        """Whether bytes of a stream have not left yet: more are under way than distance accounts for."""
        streams = [each for each in self._flows.values() if not each.patient]
        return any(each.under_way > LEAST_SLICE + self.rate * each.round_trip_s for each in streams)

    def _have_turn(self, now: float, size_bytes: int) -> None:
        """So many patient bytes were handed over."""
        if size_bytes > 0:
            wait_s = size_bytes / (SHARE * self.rate) if self.rate else _LONGEST_TURN_S
            self._turn_at = min(max(now, self._turn_at) + wait_s, now + _LONGEST_TURN_S)

    def _queue(self, now: float, size_bytes: int) -> None:
        """So many patient bytes more wait at the line."""
        faster = 1 + min(_MOST_FASTER, max(_LEAST_FASTER, _GATHERS_S / max(self._longest_s, _GATHERS_S)))
        left = self._queued - faster * self.rate * (now - self._queued_at)
        self._queued, self._queued_at = min(max(0.0, left) + size_bytes, self._under_way), now

    @property
    def _held_bytes(self) -> float:
        return max(LEAST_BYTES, HELD_S * self.rate)

    def _allowed(self) -> float:
        patient = [each for each in self._flows.values() if each.patient]
        on_the_way = sum(each.rate * each.round_trip_s for each in patient)
        # Each rate is of its own moment: together they may seem to be more than the line.
        self._longest_s = max((each.round_trip_s for each in patient), default=0.0)
        most = self.rate * self._longest_s
        return self._held_bytes + min(on_the_way, most)

    def _measure(self, now: float) -> None:
        elapsed_s = now - self._epoch_at
        if elapsed_s < _LINE_EPOCH_S:
            return
        if elapsed_s < _MEMORY_S:
            rate = (self._heard_bytes - self._epoch_bytes) / elapsed_s
            while self._rates and self._rates[-1][1] <= rate:
                self._rates.pop()
            self._rates.append((now, rate))
        self._epoch_at, self._epoch_bytes = now, self._heard_bytes
        while self._rates and now - self._rates[0][0] > _MEMORY_S:
            self._rates.popleft()
