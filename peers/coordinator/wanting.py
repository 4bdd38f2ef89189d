"""Offers that are asked for where stages wait for each other, so that a waiting one wedges nobody.

A replica that offers waits for the others of its stage, and computes nothing meanwhile: those may lack just
the microbatches that it would have passed on to them. So in a run with stages whoever has offered nothing for
a while, though others have, is asked to offer what it has, also nothing; and at once if nothing comes to it.
"""

from __future__ import annotations

from collections.abc import Callable

from peers.coordinator.course import Course
from peers.coordinator.state import RunState
from peers.protocol.messages import Wanted

WAITS_TIMEOUTS = 0.5
"""Failure timeouts in which offers of one stage come by themselves."""


class Wanting:
    """Who was asked for what."""

    def __init__(self, state: RunState, is_fed: Callable[[bytes], bool]) -> None:
        """``is_fed``: whether microbatches come to a member by themselves."""
        self._state = state
        self._is_fed = is_fed
        self._asked: dict[tuple[int, int], tuple[float, set[tuple[bytes, int]]]] = {}
        """By course and fragment: since when offers waited when members were asked, and those, each with the
        order in which it entered."""

    def ask(self, now: float, course: Course) -> None:
        """Ask those of a course for whom others wait."""
        if self._state.rules.stages == 1:
            return
        patience_s = WAITS_TIMEOUTS * self._state.rules.failure_timeout_s
        active = self._state.roster.active_in(course.number)
        for fragment, since in course.ready_since.items():
            if fragment in course.rounds:
                continue
            before, asked = self._asked.get((course.number, fragment), (since, set()))
            asked = asked if before == since else set()
            self._asked[course.number, fragment] = since, asked
            for entry in active:
                is_due = now - since >= patience_s or not self._is_fed(entry.key)
                if is_due and fragment not in entry.ready and (entry.key, entry.order) not in asked:
                    asked.add((entry.key, entry.order))
                    self._state.outlet.send(now, entry.key, Wanted(fragment))
