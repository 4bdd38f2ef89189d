"""Who moves to a stage that has too little of the model's speed: one at a time, and rarely.

A move is decided by `placing.best_move`, once that was the same for a while, and journaled before it is said.
The member drains, offers, leaves and asks for a stage again, and is told the new one then; until it does, it
belongs where it is, also if the host restarts meanwhile. So what it holds of the old stage goes only when
others there hold the same (PP10), and a move that would leave a stage to nobody by then is given up.
"""

from __future__ import annotations

from peers.coordinator.course import Course
from peers.coordinator.journal import StageMoves
from peers.coordinator.placing import BYTES_PER_PARAMETER, Movable, Move, StageLoad, best_move
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.placing import MoveTo
from peers.protocol.traces import StageMoveTrace
from transport.frames import pack

LASTS_TIMEOUTS = 2
"""Failure timeouts for which a stage has too little before somebody moves."""
REST_TIMEOUTS = 10
"""Failure timeouts between the end of a move and the next one at the least, and after a start of the host."""
REST_MOVES = 10
"""The same in times that the last move took."""
GIVES_UP_TIMEOUTS = 20
"""Failure timeouts, beside the grace of a round, after which a move that is not over counts as failed."""


class Moving:
    """Of one run with stages."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._best: Move | None = None
        self._best_since = 0.0
        self._under_way: bytes | None = None
        """Who was told to move, until it trains there or does not come."""
        self._began_at = 0.0
        self._rests_until: float | None = None

    def entered(self, now: float, entry: Entry) -> None:
        """A member is in; one that is to move, and came back as it was, is told again."""
        if entry.moves_to is not None:
            self._state.outlet.send(now, entry.key, MoveTo(entry.moves_to))

    def tick(self, now: float) -> None:
        """Time has passed."""
        timeout_s = self._state.rules.failure_timeout_s
        if self._rests_until is None:
            self._rests_until = now + REST_TIMEOUTS * timeout_s
        if self._under_way is None:  # one of an earlier life may be under way
            told = (each.key for each in self._state.roster.entries.values() if each.moves_to is not None)
            self._under_way, self._began_at = next(told, None), now
        if self._under_way is not None:
            self._look_at(now, self._state.roster.entries[self._under_way])
        elif now >= self._rests_until and not self._state.finished:
            best = best_move(self._loads(now), self._movable(), max(1, self._state.rules.min_peers))
            if best != self._best:
                self._best, self._best_since = best, now
            elif best is not None and now - self._best_since >= LASTS_TIMEOUTS * timeout_s:
                self._begin(now, best)

    # -- inside -------------------------------------------------------------------------------

    def _begin(self, now: float, move: Move) -> None:
        entry = self._state.roster.entries[move.key]
        self._under_way, self._began_at, self._best = move.key, now, None
        self._state.outlet.store(pack(StageMoves(move.key, move.to)))
        entry.moves_to = move.to
        self._state.outlet.trace(StageMoveTrace(entry.key, entry.name, entry.course, move.to))
        self._state.outlet.send(now, entry.key, MoveTo(move.to))

    def _look_at(self, now: float, entry: Entry) -> None:
        """Whether the move that is under way is over."""
        rules = self._state.rules
        late = now - self._began_at > GIVES_UP_TIMEOUTS * rules.failure_timeout_s + rules.grace_s
        if (entry.moves_to is None and entry.active) or late:
            if entry.moves_to is not None:
                stay(self._state, entry)
            took_s = now - self._began_at
            rest_s = max(REST_TIMEOUTS * rules.failure_timeout_s, REST_MOVES * took_s)
            self._under_way, self._rests_until = None, now + rest_s

    def _loads(self, now: float) -> list[StageLoad]:
        """Who trains which stage, or is about to."""
        soon = [e for e in self._state.roster.entries.values() if self._is_on_its_way(now, e)]
        return [
            StageLoad(
                course.number,
                tuple(e.claimed_speed for e in _here(self._state, course) if e.claimed_speed > 0.0),
                sum(e.claimed_speed <= 0.0 for e in _here(self._state, course)),
                _needed_bytes(course),
                sum(e.given_stage == course.number for e in soon),
                bool(_here(self._state, course)),
            )
            for course in self._state.courses.values()
        ]

    def _is_on_its_way(self, now: float, entry: Entry) -> bool:
        away_s = now - entry.absent_since
        waits_s = REST_TIMEOUTS * self._state.rules.failure_timeout_s
        return entry.num_reserved > 0 and not entry.entered and not entry.kicked and away_s < waits_s

    def _movable(self) -> list[Movable]:
        """Who did not say what memory it has holds what it holds, and moves to no larger stage."""
        return [
            Movable(e.key, e.course, e.claimed_speed, e.memory_bytes or _needed_bytes(course))
            for course in self._state.courses.values()
            for e in _here(self._state, course)
            if e.may_move and e.claimed_speed > 0.0 and e.moves_to is None and e.key != self._state.me
        ]


def take_up(state: RunState, entry: Entry) -> int | None:
    """One that was told to move asks for its stage: the new one, if it would still move and others hold what
    it has of the old one; None where there is no move."""
    if entry.moves_to is None or entry.given_stage is None or entry.entered:
        return None
    others = [each for each in _here(state, state.courses[entry.given_stage]) if each is not entry]
    if not others or not entry.may_move:
        stay(state, entry)
        return None
    to, entry.moves_to = entry.moves_to, None
    return to


def stay(state: RunState, entry: Entry) -> None:
    """A move is given up."""
    if entry.given_stage is not None:
        state.outlet.store(pack(StageMoves(entry.key, entry.given_stage)))
    entry.moves_to = None


def _needed_bytes(course: Course) -> int:
    return BYTES_PER_PARAMETER * sum(course.manifest.elements) if course.manifest else 0


def _here(state: RunState, course: Course) -> list[Entry]:
    """Those who hold the state of a stage, and are not about to leave it."""
    active = state.roster.active_in(course.number)
    return [each for each in active if not each.is_missing and not each.drains]
