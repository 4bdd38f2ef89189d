"""Memberships of a run whose model has stages, as replicas of all stages are told of them.

A membership is numbered by the epoch in which it began. It outlives sessions with the coordinator and its
restarts, while the process lives: others have what it is computing, and what it accumulated counts. So its
beginning and its end are journaled before they are said. Whoever stood when this life began, and has not come
back after a while, stands no more; until then nobody is told that a list of replicas is whole. Keeps PP1, S14
on the coordinator's side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peers.coordinator.course import Course
from peers.coordinator.journal import Stands, WouldMove
from peers.coordinator.moving import Moving
from peers.coordinator.placing import believed_speeds
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.coordinator.wanting import Wanting
from peers.protocol.messages import Refused
from peers.protocol.placing import Wiring
from peers.protocol.stream import Draining, EndsAre, Feeding, ReplicaGone, ReplicaIs, RosterIs, StandsSince
from transport.effects import NEVER
from transport.frames import pack

COMES_BACK_TIMEOUTS = 2
"""Failure timeouts in which members come back to a coordinator that restarted."""
NEWS_TIMEOUTS = 0.25
"""Failure timeouts between two times at which all are told what has changed of others."""
CHANGE = 0.1
"""Relative change of a speed that is worth telling."""
MAX_NEW = 8
"""Memberships that one identity may begin in quick succession; from then on one in a failure timeout."""


class Standing:
    """Who stands since when. Does nothing in a run with one stage."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._is_used = state.rules.stages > 1
        self._moving = Moving(state)
        self.wanting = Wanting(state, self._is_fed)
        self.handlers: dict[type, Callable[[float, Course, Entry, Any], None]] = {
            Draining: self.drains,
            Feeding: self.feeding,
            EndsAre: self.ends_are,
        }
        self._claims: dict[bytes, int] = {}
        """By member that is about to enter: the membership that it says it has."""
        self._lines: dict[bytes, int] = {}
        self._told: dict[bytes, tuple[float, bool]] = {}
        """By member: what the others were told of its speed, and whether it feeds."""
        self._tell_at = NEVER
        self._lines_only = state.rules.wiring is Wiring.LINES
        self._settles_at: float | None = None
        self._paid_until: dict[bytes, float] = {}
        """By identity: later by a failure timeout with each membership that it begins."""

    def start(self, now: float) -> None:
        """Begin a life."""
        if self._state.standing:
            self._settles_at = now + COMES_BACK_TIMEOUTS * self._state.rules.failure_timeout_s

    def claim(self, entry: Entry, message: StandsSince) -> None:
        """A member that is about to enter says which membership it has."""
        if self._is_used:
            self._claims[entry.key] = message.since

    def refusal(self, now: float, entry: Entry) -> Refused | None:
        """Why a member may not enter: each new membership is journaled twice and told to everybody."""
        early_s = self._paid_until.get(entry.key, now) - now
        if early_s <= (MAX_NEW - 1) * self._state.rules.failure_timeout_s or self._goes_on(entry.key):
            return None
        return Refused("often", f"this worker entered {MAX_NEW} times in a short time: join again later")

    def _goes_on(self, key: bytes) -> bool:
        since = self._state.standing.get(key, 0)
        return since > 0 and self._claims.get(key, 0) == since

    def entered(self, now: float, entry: Entry) -> None:
        """A member is in: its membership goes on, if it is the one that stands, or begins."""
        if not self._is_used:
            return
        key, roster = entry.key, self._state.roster
        goes_on, since = self._goes_on(key), self._state.standing.get(key, 0)
        self._claims.pop(key, None)
        if not goes_on:
            self.ended(now, key)
            timeout_s = self._state.rules.failure_timeout_s
            self._paid_until[key] = max(now, self._paid_until.get(key, now)) + timeout_s
            roster.epoch += 1
            since = roster.epoch
            self._state.outlet.store(pack(Stands(key, since)))
            self._keep_terms(entry)
            self._state.standing[key] = since
            self._lines[key] = self._free_line(entry)
            entry.rests = False
            self._tell_others(now, key, self._replica_is(key, roster.epoch))
        else:  # its addresses may be others
            self._tell_others(now, key, self._replica_is(key, 0))
        self._say(now, key, StandsSince(since))
        for each in self._state.standing:
            self._say(now, key, self._replica_is(each, 0))
        if self._settles_at is None:
            self._say(now, key, RosterIs(roster.epoch))
        self._moving.entered(now, entry)

    def ended(self, now: float, key: bytes) -> None:
        """A membership is over; everybody hears of it."""
        if not self._state.standing.get(key):
            return
        self._state.outlet.store(pack(Stands(key, 0)))
        del self._state.standing[key]
        self._lines.pop(key, None)
        self._state.roster.entries[key].drains = False
        self._told.pop(key, None)
        self._state.roster.epoch += 1
        self._tell_others(now, key, ReplicaGone(self._state.roster.epoch, key))

    def drains(self, now: float, course: Course, entry: Entry, message: Draining) -> None:
        """A member is about to leave: no new path goes through it."""
        if self._state.standing.get(entry.key) == message.since and not entry.drains:
            entry.drains = True
            self._state.roster.epoch += 1
            said = self._replica_is(entry.key, self._state.roster.epoch)
            self._tell_others(now, entry.key, said)
            self._say(now, entry.key, said)

    def feeding(self, now: float, course: Course, entry: Entry, message: Feeding) -> None:
        """A feeder has no more, or again. The others hear so with the next news."""
        if self._state.standing.get(entry.key) == message.since and _stage_of(entry) == 0:
            entry.rests = not message.feeds

    def ends_are(self, now: float, course: Course, entry: Entry, message: EndsAre) -> None:
        """What became of what a feeder fed: for people."""
        if self._state.standing.get(entry.key) == message.since and _stage_of(entry) == 0:
            entry.ends = message

    def tick(self, now: float) -> None:
        """Time has passed: whoever had to come back by now has, or is gone, and there may be news."""
        if self._is_used and now >= self._tell_at:
            self._tell_at = now + NEWS_TIMEOUTS * self._state.rules.failure_timeout_s
            self._tell_news(now)
            self._moving.tick(now)
        if self._settles_at is None or now < self._settles_at:
            return
        self._settles_at = None
        for key in [each for each in self._state.standing if not self._state.roster.entries[each].entered]:
            self.ended(now, key)
        for entry in self._state.roster.entered():
            self._say(now, entry.key, RosterIs(self._state.roster.epoch))

    # -- inside -------------------------------------------------------------------------------

    def _keep_terms(self, entry: Entry) -> None:
        """With a membership, whose number is bounded: a later life of the host hears nobody ask."""
        terms = entry.may_move, entry.memory_bytes
        if terms != entry.kept_terms:
            self._state.outlet.store(pack(WouldMove(entry.key, *terms)))
            entry.kept_terms = terms

    def _tell_news(self, now: float) -> None:
        """How fast replicas are and who feeds, as far as that has changed."""
        for course in self._state.courses.values():
            here = [e for e in self._state.roster.entered_in(course.number) if e.key in self._state.standing]
            speeds = {} if self._lines_only else believed_speeds({e.key: e.claimed_speed for e in here})
            for entry in here:
                speed, feeds = speeds.get(entry.key, 0.0), not entry.rests
                told, fed = self._told.get(entry.key, (0.0, True))
                if abs(speed - told) > CHANGE * told or feeds != fed:
                    self._told[entry.key] = speed, feeds
                    said = self._replica_is(entry.key, 0)
                    self._say(now, entry.key, said)
                    self._tell_others(now, entry.key, said)

    def _is_fed(self, key: bytes) -> bool:
        """Whether somebody feeds what comes to a replica; with lines, also where another line is not
        broken."""
        entries, line = self._state.roster.entries, self._lines.get(key)
        feeders = [k for k in self._state.standing if _stage_of(entries[k]) == 0 and not entries[k].rests]
        if entries[key].entered and _stage_of(entries[key]) == 0:
            return key in feeders
        if not self._lines_only:
            return bool(feeders)
        return line is None or line in {self._lines.get(each) for each in feeders}

    def _replica_is(self, key: bytes, epoch: int) -> ReplicaIs:
        entry = self._state.roster.entries[key]
        since, line = self._state.standing[key], self._line_of(key)
        speed, feeds = self._told.get(key, (0.0, True))
        stage = _stage_of(entry)
        return ReplicaIs(epoch, key, since, stage, line, entry.addresses, speed, entry.drains, feeds)

    def _line_of(self, key: bytes) -> int:
        if key not in self._lines:  # it stood before this life began
            self._lines[key] = self._free_line(self._state.roster.entries[key])
        return self._lines[key]

    def _free_line(self, entry: Entry) -> int:
        entries = self._state.roster.entries
        taken = {line for key, line in self._lines.items() if entries[key].given_stage == entry.given_stage}
        return min(set(range(len(taken) + 1)) - taken)

    def _tell_others(self, now: float, key: bytes, message: Any) -> None:
        for other in self._state.roster.entered():
            if other.key != key:
                self._say(now, other.key, message)

    def _say(self, now: float, key: bytes, message: Any) -> None:
        self._state.outlet.send(now, key, message)


def _stage_of(entry: Entry) -> int:
    return entry.course if entry.given_stage is None else entry.given_stage
