"""At which records a worker writes a checkpoint: pure, and the same on every worker that keeps up.

Boundaries are records whose index is a multiple of ``every`` times the number of fragments. Whoever is not
done at a boundary doubles ``every`` for itself, so that the heads of all still coincide; whoever has long
been done halves it again, down to what the run's settings say. Never two at a time, and no queue.
"""

from __future__ import annotations

import math

from diloco.settings.sections import MAX_COMMITS_BETWEEN


class Boundaries:
    """When one worker writes."""

    def __init__(self, num_fragments: int, least_s: float = 10.0, least_every: int = 1) -> None:
        """Between two checkpoints there are at least ``least_s`` seconds, and ``least_every`` commits of each
        fragment."""
        self.every = least_every
        self._least_every = least_every
        self._max_every = max(1, MAX_COMMITS_BETWEEN // num_fragments)
        self._num_fragments = num_fragments
        self._least_s = least_s
        self._busy = False
        self._doubled = False
        self._free_at = -math.inf
        """When the next one may begin."""
        self._last_boundary = math.nan
        self._written_index = -1

    @property
    def is_busy(self) -> bool:
        """One is being written."""
        return self._busy

    def follow(self, least_every: int) -> None:
        """There are to be so many commits of each fragment between two from now on."""
        if least_every != self._least_every:
            self.every = self._least_every = least_every

    def begin(self, now: float, index: int, least_s: float = 0.0) -> None:
        """One is being written, of the record ``index``; the next one is to be so many seconds later."""
        assert not self._busy, "one at a time"
        self._busy, self._doubled, self._written_index = True, False, index
        self._free_at = now + max(least_s, self._least_s)

    def end(self, now: float) -> None:
        """It is written, or has failed."""
        self._busy = False
        self._free_at = max(self._free_at, now)

    def is_due(self, now: float, index: int) -> bool:
        """Whether one is to be written now that record ``index`` is applied. To be asked at every record."""
        if index % (self.every * self._num_fragments):
            return False
        since, self._last_boundary = now - self._last_boundary, now
        if self._busy or now < self._free_at:
            self._double()
            return False
        is_slowed, is_new = self.every > self._least_every, index > self._written_index
        if now - self._free_at > 0.75 * since and is_slowed and is_new:
            self.every //= 2
        return index != self._written_index

    def _double(self) -> None:
        """Once for each that was not done in time: records may come fast for a moment."""
        if not self._doubled:
            self._doubled = True
            if 2 * self.every <= self._max_every:
                self.every *= 2
