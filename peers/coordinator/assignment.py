"""Which stage each joiner is told to train, and what is held for it until it comes.

Of a run with several stages: who asks is told one by the rule of `placing`, which is journaled, and holds a
place in it for `RESERVED_TIMEOUTS`. Who was in a stage once is told that one ever after, unless it moves
(`moving`), for its disk may be the only one that has the stage's state; so no two disks' states are mixed,
and no stage is emptied by those who come back (PP10). Nobody enters with another stage than it was told
(PP9). What one identity says costs the journal `MAX_RESERVED` entries at most, and it holds one place at a
time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from peers.coordinator.course import Course
from peers.coordinator.journal import StageGiven
from peers.coordinator.moving import take_up
from peers.coordinator.placing import BYTES_PER_PARAMETER, StageLoad, choose
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.messages import Refused
from peers.protocol.placing import ANY_STAGE, AskStage, StageIs
from peers.protocol.traces import StageGivenTrace
from transport.frames import pack

ABSENT = Refused("absent", "this worker was away so long that others may have its place: join again")
RESERVED_TIMEOUTS = 10
"""Failure timeouts for which a joiner's place in its stage is held."""
MAX_RESERVED = 3
"""Places that are held for one identity in a row without its coming. From then on it is told the last one,
and holds nothing."""


@dataclass(frozen=True, slots=True)
class _Reservation:
    stage: int
    until: float


class Assignment:
    """Of one run."""

    def __init__(self, state: RunState, max_replicas: int) -> None:
        self._state = state
        self._max_replicas = max_replicas
        self._reserved: dict[bytes, _Reservation] = {}
        """By identity, those that are not here yet."""

    @property
    def num_stages(self) -> int:
        """Stages of the run."""
        return len(self._state.courses)

    def start(self, now: float) -> None:
        """A life of the coordinator begins: those who were here just before have a time to come back."""
        if self.num_stages == 1:
            return
        for course in self._state.courses.values():
            away = [each for each in self._state.roster.entries.values() if _was_in(course, each)]
            for entry in away[: self._max_replicas]:
                self._reserve(now, entry, course.number)

    def ask(self, now: float, entry: Entry, message: AskStage) -> bool:
        """A joiner wants to know its stage. Whether it is another one than it stood in until now."""
        before = entry.given_stage
        answer: StageIs | Refused = StageIs(0) if entry.has_place else ABSENT
        if self.num_stages > 1 and entry.has_place:
            answer = self._answer(now, entry, message)
        self._state.outlet.send(now, entry.key, answer)
        return before != entry.given_stage

    def refusal(self, entry: Entry, stage: int, *, holds_state: bool) -> Refused | None:
        """Why a member may not enter with that stage; None if it may. One that holds a stage's state and was
        given none comes from a life that the journal lacks."""
        if stage not in self._state.courses:
            return Refused("stage", f"{self._numbers()}: there is no stage {stage}")
        if self.num_stages == 1 or stage == entry.given_stage:
            return None
        if entry.given_stage is None:
            told = f"{self._numbers()}: this worker came with one and was given none"
            return None if holds_state else Refused("stage", told)
        return Refused("stage", f"this worker was given stage {entry.given_stage}, and came with {stage}")

    def entered(self, entry: Entry, stage: int) -> None:
        """A member is here: nothing is held for it any more, and its stage stays its own."""
        if self.num_stages > 1:
            self._note(entry, stage)
        self._reserved.pop(entry.key, None)
        entry.keeps_stage, entry.num_reserved = True, 0

    def _answer(self, now: float, entry: Entry, message: AskStage) -> StageIs | Refused:
        self._reserved = {key: each for key, each in self._reserved.items() if now < each.until}
        entry.may_move = message.moves and message.wish == ANY_STAGE
        entry.memory_bytes = message.memory_bytes
        if (to := take_up(self._state, entry)) is not None:
            self._note(entry, to)
            self._reserved.pop(entry.key, None)  # of a life that awaited it where it was
            self._reserve(now, entry, to)
        given, wish = entry.given_stage, message.wish
        is_kept = entry.keeps_stage or entry.key in self._reserved or entry.num_reserved >= MAX_RESERVED
        if given is not None and is_kept:
            if wish not in (ANY_STAGE, given):
                told = f"this worker was given stage {given}, whose state its disk may have"
                return Refused("stage", f"{told}: ask for no other one, or join as a new worker")
            refused = self._unfit(self._loads([self._state.courses[given]])[0], message.memory_bytes)
            if refused is None and not entry.entered and entry.num_reserved < MAX_RESERVED:
                self._reserve(now, entry, given)
            return refused or StageIs(given)
        return self._give(now, entry, message)

    def _give(self, now: float, entry: Entry, message: AskStage) -> StageIs | Refused:
        courses, memory = self._state.courses, message.memory_bytes
        if message.wish != ANY_STAGE and message.wish not in courses:
            return Refused("stage", f"{self._numbers()}: there is no stage {message.wish}")
        wanted = list(courses.values()) if message.wish == ANY_STAGE else [courses[message.wish]]
        loads = self._loads(wanted)
        chosen = choose(loads, memory, self._max_replicas)
        if chosen is None:
            unfit = [found for each in loads if (found := self._unfit(each, memory)) is not None]
            return unfit[0] if len(unfit) == len(loads) else self._full(message.wish)
        self._note(entry, chosen.number)
        self._reserve(now, entry, chosen.number)
        return StageIs(chosen.number)

    def _note(self, entry: Entry, stage: int) -> None:
        if stage != entry.given_stage:
            self._state.outlet.store(pack(StageGiven(entry.key, stage)))
            self._state.outlet.trace(StageGivenTrace(entry.key, entry.name, stage))
            entry.train_stage(stage)

    def _reserve(self, now: float, entry: Entry, stage: int) -> None:
        if entry.key not in self._reserved:
            entry.num_reserved += 1
            until = now + RESERVED_TIMEOUTS * self._state.rules.failure_timeout_s
            self._reserved[entry.key] = _Reservation(stage, until)

    def _loads(self, courses: Sequence[Course]) -> list[StageLoad]:
        num_reserved = Counter(each.stage for each in self._reserved.values())
        return [self._load(course, num_reserved[course.number]) for course in courses]

    def _load(self, course: Course, num_reserved: int) -> StageLoad:
        here = self._state.roster.entered_in(course.number)
        # While they compute: what offers show is how much comes to them, less where another stage is starved.
        told = [each.claimed_speed for each in here]
        speeds = tuple(speed for speed in told if speed > 0.0)
        return StageLoad(
            course.number,
            speeds,
            len(here) - len(speeds) + num_reserved,
            BYTES_PER_PARAMETER * sum(course.manifest.elements) if course.manifest else 0,
        )

    def _unfit(self, load: StageLoad, memory_bytes: int) -> Refused | None:
        if load.fits(memory_bytes):
            return None
        needs = f"stage {load.number} needs {load.needed_bytes / 1e9:.3g} GB at least"
        return Refused("memory", f"{needs}, and this worker has {memory_bytes / 1e9:.3g} GB for it")

    def _full(self, wish: int) -> Refused:
        what = "each stage" if wish == ANY_STAGE else f"stage {wish}"
        return Refused("full", f"{what} has {self._max_replicas} workers or awaits them: try again later")

    def _numbers(self) -> str:
        count = self.num_stages
        return f"the run has {count} stages, 0 to {count - 1}" if count > 1 else "the run has one stage, 0"


def _was_in(course: Course, entry: Entry) -> bool:
    """Whether an identity took part in one of the newest commits, or, before there is any, was told to."""
    if entry.given_stage != course.number or entry.kicked or not entry.has_place:
        return False
    since = course.chain.index - (course.manifest.num_fragments if course.manifest else 1)
    return not course.chain.index or course.chain.newest_of(entry.key) > since
