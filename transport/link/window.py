"""The credit that the other end of a link gets: its window, and more where the line is long and fast.

What may be in flight without waiting is the rate times the round trip. Both are measured here, by what this
end consumes and by how soon a question is answered, so a receiver that is slow grants no more for it. Growth
comes out of what all links of a node have to spare together, of which a link takes at most half of the rest:
whoever makes us grant much leaves some to all others, and each its own window. What was granted cannot be
taken back: it returns to the others as the other end uses it. Part of R1.
"""

from __future__ import annotations

from collections import deque

from transport.effects import NEVER

_SHARE = 2.0
"""Times the rate and the round trip: credit is told in steps, and a rate that credit holds down shows so."""
_IDLE_S = 5.0
"""After so long without a need for it, growth is given back."""
_SAMPLES = 8
"""Round trips of which the shortest counts: others waited in queues."""
_SAMPLE_EVERY_S = 1.0


class Spare:
    """Bytes beyond their windows that all links of a node share."""

    __slots__ = ("left",)

    def __init__(self, size_bytes: int) -> None:
        self.left = size_bytes

    def most(self, held: int) -> int:
        """What a link may have that has so much."""
        return (held + self.left) // 2

    def take(self, held: int, wanted: int) -> int:
        """What a link has from now on that has so much: as much as it wants, or may."""
        has = max(0, min(wanted, max(held, self.most(held))))
        self.left += held - has
        return has


class Window:
    """The credit of one other end, in bytes since its session began."""

    __slots__ = (
        "_asked",
        "_asked_at",
        "_epoch_at",
        "_extra",
        "_in_epoch",
        "_needed_at",
        "_num_asked",
        "_returns",
        "_spare",
        "base",
        "consumed",
        "granted",
        "round_trips",
    )

    def __init__(self, base: int, spare: Spare, round_trips: deque[float] | None = None) -> None:
        """``round_trips`` are those of another window over the same path, which measures them."""
        self.base = base
        """What it gets at any time; shrinks as peers join."""
        self._spare = spare
        self._extra = 0
        self._num_asked = 0
        self.round_trips = deque[float](maxlen=_SAMPLES) if round_trips is None else round_trips
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another session: nothing is granted, and nothing is known of the line."""
        self._extra = self._spare.take(self._extra, 0)
        self.consumed = 0
        self.granted = 0
        """The most that the other end was told."""
        self._returns = False
        """Growth is given back, as the other end uses up what it was granted."""
        self._needed_at = NEVER
        self._epoch_at = NEVER
        self._in_epoch = 0
        self._asked: int | None = None
        self._asked_at = NEVER
        self.round_trips.clear()

    @property
    def size(self) -> int:
        """Bytes that may be in flight to us now."""
        return self.base if self._returns else self.base + self._extra

    def grant(self) -> int:
        """The credit to tell; a window that shrank takes back nothing."""
        credit = self.consumed + self.size
        if credit > self.granted:
            self.granted = credit
        return credit

    def consume(self, now: float, cost: int) -> None:
        """So much of what came was used."""
        self.consumed += cost
        self._in_epoch += cost
        if self._returns:
            outstanding = self.granted - self.consumed
            self._extra = self._spare.take(self._extra, min(self._extra, outstanding - self.base))
        if self.round_trips:
            self._measure(now, min(self.round_trips))

    def _measure(self, now: float, round_trip_s: float) -> None:
        elapsed_s = now - self._epoch_at
        if elapsed_s < round_trip_s or not elapsed_s:
            return
        wanted = int(_SHARE * self._in_epoch * round_trip_s / elapsed_s)
        self._epoch_at, self._in_epoch = now, 0
        if wanted > self.base + self._extra // 2:
            self._needed_at, self._returns = now, False
            self._extra = self._spare.take(self._extra, max(self._extra, wanted - self.base))
        elif now - self._needed_at > _IDLE_S:
            self._returns = True

    # -- the round trip -----------------------------------------------------------------------

    def wants_round_trip(self, now: float) -> bool:
        """Whether it is time to measure it once more."""
        return now - self._asked_at >= _SAMPLE_EVERY_S

    def ask(self, now: float) -> int:
        """The number of the next question, which is asked now."""
        self._num_asked += 1
        self._asked, self._asked_at = self._num_asked, now
        return self._num_asked

    def answered(self, now: float, number: int) -> None:
        """The other end has answered that one."""
        if number == self._asked:
            self._asked = None
            self.round_trips.append(now - self._asked_at)
