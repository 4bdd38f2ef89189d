"""When a sealed lane is of no use any more, and whether a peer's bulk may have one: state only, given the
time.

A lane is stuck when nothing of what is under way gets to the other machine for max(2 s, 4 round trips) while
the control connection answers: then the lane is at fault, not the peer. What counts is that bytes move, not
the age of a record: one of 1 MiB takes eight seconds on 1 Mbit/s. Three such ends within a minute, or a port
that does not answer, leave bulk on CURVE for five minutes. Nothing is retried in a rush (R4).
"""

from __future__ import annotations

from collections import deque

from transport.effects import NEVER
from transport.errors import BadMessage

STUCK_S = 2.0
STUCK_ROUND_TRIPS = 4
MOST_ENDS = 3
WITHIN_S = 60.0
REST_S = 300.0
_SAMPLES = 16
_TIMED = 64


class LaneWatch:
    """What we send over one connection, and whether it gets on."""

    def __init__(self, now: float) -> None:
        self._moved_at = now
        self._num_sent = self._num_taken = 0
        self._timed: deque[tuple[int, float]] = deque(maxlen=_TIMED)
        """Some records, and when they were handed over."""
        self._samples: deque[float] = deque(maxlen=_SAMPLES)

    @property
    def round_trip_s(self) -> float:
        """The smallest of the last ones from handing a record over to hearing that it was taken; 0 before."""
        return min(self._samples, default=0.0)

    def sent(self, now: float, num_frames: int) -> None:
        """So many frames in all have been handed to the socket."""
        if self._num_sent == self._num_taken:
            self._moved_at = now  # nothing was under way, so nothing could move
        self._num_sent = num_frames
        if len(self._timed) < _TIMED:
            self._timed.append((num_frames, now))

    def moved(self, now: float) -> None:
        """The other machine has more bytes of it than at the last look."""
        self._moved_at = now

    def taken(self, now: float, num_frames: int) -> None:
        """The other end has taken so many in all. Raises `BadMessage` if that cannot be."""
        if not self._num_taken <= num_frames <= self._num_sent:
            raise BadMessage("it has taken records that were never sent")
        if num_frames > self._num_taken:
            self._num_taken, self._moved_at = num_frames, now
        while self._timed and self._timed[0][0] <= num_frames:
            self._samples.append(now - self._timed.popleft()[1])

    def due(self) -> float | None:
        """When it is stuck if nothing moves until then; None while nothing is under way."""
        return None if self._num_sent == self._num_taken else self._moved_at + self._patience_s()

    def is_stuck(self, now: float, control_heard_at: float) -> bool:
        """Whether the lane is to be closed; ``control_heard_at`` is when control last brought anything. While
        the whole peer is silent, no lane is at fault."""
        due = self.due()
        return due is not None and due <= now and control_heard_at >= (self._moved_at + due) / 2

    def _patience_s(self) -> float:
        return max(STUCK_S, STUCK_ROUND_TRIPS * self.round_trip_s)


class BulkChoice:
    """One peer: whether its bulk may have sealed lanes."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=MOST_ENDS)
        self._from = NEVER
        self._is_told = False

    def may_ask(self, now: float) -> bool:
        """Whether a lane may be asked for."""
        return now >= self._from

    def due(self) -> float | None:
        """When lanes may be asked for again, while they may not."""
        return None if self._from == NEVER else self._from

    def troubled(self, now: float) -> bool:
        """A lane was stuck, or something else than the peer's bytes came over it. True if bulk stays on CURVE
        from now on: that is told in one line."""
        self._ends.append(now)
        if len(self._ends) < MOST_ENDS or now - self._ends[0] > WITHIN_S:
            return False
        self._ends.clear()
        self._from = now + REST_S
        return True

    def refused(self, now: float) -> bool:
        """No connection came about: the port is closed, or no lane is offered. True the first time since one
        did: that is told in one line."""
        self._from = now + REST_S
        is_news, self._is_told = not self._is_told, True
        return is_news

    def opened(self) -> None:
        """A lane is up."""
        self._from, self._is_told = NEVER, False
