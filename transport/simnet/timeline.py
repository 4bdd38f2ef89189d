"""Virtual time: one heap of events, keyed by (nanoseconds, sequence), in one thread; no clock, no sleeping.

Events of one instant run in the order in which they were pushed. It knows nothing of what they do.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

_STORM = 100_000
"""Events at one instant after which the cores are talking in circles."""


class Timeline:
    """The events that are to come, and the time now."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.num_events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._instant_began = 0
        """How many events there had been when this instant began."""

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, at_ns: int, run: Callable[..., None], *given: Any) -> None:
        """``run(*given)`` happens at this time."""
        self._sequence += 1
        heapq.heappush(self._heap, (at_ns, self._sequence, run, given))

    def run(self, until_ns: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass until ``until_ns`` or until ``done``; True if it was done."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_ns:
            at, _, run, given = pop(heap)
            if at != self.now_ns:
                self.now_ns, self._instant_began = at, self.num_events
            elif self.num_events - self._instant_began >= _STORM:
                raise AssertionError(f"more than {_STORM} events at {self.now_ns} ns")
            self.num_events += 1
            run(*given)
            if done is not None and done():
                return True
        self.now_ns = until_ns
        return False
