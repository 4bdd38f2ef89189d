"""What a coordinator tells of its run to whoever holds a ticket: typed values, and their plain form.

The plain form is what travels and what `diloco status --json` prints: tables, lists, numbers, texts and keys,
under the names that older programs read. Reading it back trusts nothing: `RunStatus.from_plain` checks every
type and size, for the host may be anybody. Decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from peers.coordinator.course import CommitSummary, Course
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.coordinator.tickets import TicketStatus
from peers.coordinator.waiting import awaited_members, course_waits_for, waits_for
from transport.errors import BadFrame
from transport.limits import LIMITS

_MAX_COUNT = 1 << 62
_MAX_TEXT = 256
_KEY_BYTES = 32
_MAX_MARKS = 64


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member that has entered."""

    name: str
    key: bytes
    active: bool
    """It holds the shared state; otherwise it is on its way there."""
    silent_s: float
    """Seconds since it was last heard; since it entered, if its link was heard of nothing."""
    step: int
    """Inner steps; this and all below is what the member reports of itself, and 0 before its first report."""
    tokens: int
    loss: float
    """Of its last step whose loss was finite."""
    loss_is_finite: bool
    """Whether that was its last step."""
    tokens_per_second: float
    speed: float
    """Tokens per second without the time that it waited."""
    bytes_sent: int
    non_finite: int
    """Contributions that it gave up because they were not finite."""
    stage: int = 0
    """The part of the model that it trains."""
    awaited: bool = False
    """The run waits for it just now."""
    alike: bool = False
    """Round after round others send what it sends itself: they seem to train on the same data."""
    validation: float = 0.0
    """Of a stage 0: the loss of what it evaluated last, forward only, through all stages."""
    validated: bool = False
    """Whether there is one."""


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of a model that is cut into several, or the only one."""

    number: int
    num_replicas: int
    num_active: int
    """Replicas that hold the stage's state. Where one alone does, its death loses that, but for what is on
    disks."""
    speed: float
    """Of all replicas together, in tokens per second without the time that they waited, as they say."""
    num_rounds: int
    num_commits: int
    head: bytes
    model: str
    saved_index: int
    """The newest commit whose state is on somebody's disk; -1 without any."""
    waits: str
    """For whom the stage waits, and what to do; empty while it waits for nobody."""
    settled: int = 0
    """Microbatches that replicas of this stage, if it is the first, fed and that all stages counted."""
    partial: int = 0
    """Those that were given up below this stage: it and those above may have counted them."""
    lost: int = 0
    """Those that nobody counted, as settled ones told of at the first stage."""

    def plain(self) -> dict[str, Any]:
        """A table that msgpack carries."""
        return {
            "stage": self.number,
            "replicas": self.num_replicas,
            "active": self.num_active,
            "speed": self.speed,
            "rounds": self.num_rounds,
            "commits": self.num_commits,
            "head": self.head,
            "model": self.model,
            "saved": self.saved_index,
            "waits": self.waits,
            "settled": self.settled,
            "partial": self.partial,
            "lost": self.lost,
        }


@dataclass(frozen=True, slots=True)
class OpenRoundStatus:
    """One round that is open."""

    serial: int
    fragment: int
    attempt: int
    num_members: int


@dataclass(frozen=True, slots=True)
class MarkStatus:
    """One member accused another, and nobody can tell which of them is wrong: neither owns chunks."""

    accuser: str
    accused: str
    num_commits: int
    """How many more commits that lasts."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run at one moment."""

    members: tuple[MemberStatus, ...]
    epoch: int
    term: int
    head: bytes
    num_rounds: int
    max_rounds: int
    """Rounds after which the run is finished."""
    over: bool
    """The run is finished, and its members know."""
    open_rounds: tuple[OpenRoundStatus, ...]
    model: str
    """A readable line about the model; empty before the first member entered."""
    codec: str
    num_elements: tuple[int, ...]
    """Elements by fragment."""
    recent: tuple[CommitSummary, ...]
    """The last commits, the latest at the end."""
    marks: tuple[MarkStatus, ...] = ()
    run_name: str = ""
    """What people call the run."""
    stopped: bool = False
    """The owner ended the run."""
    tickets: tuple[TicketStatus, ...] = ()
    waits: str = ""
    """For whom the run waits, and what to do; empty while it waits for nobody."""
    saved_index: int = -1
    """The newest commit whose state is on somebody's disk; -1 without any."""
    saved_by: tuple[str, ...] = ()
    """Names of those whose disks have it; with gossip, of all whose disks have a replica."""
    gossips: bool = False
    """Each worker has a replica of its own, and what is saved is counted by outer steps."""
    num_commits: int = 0
    """Rounds, and each time that the run went back: the index of the newest record. With gossip rounds."""
    stages: tuple[StageStatus, ...] = ()
    """What is said of a run's state, model and saves above is of the first of them."""

    @property
    def num_members(self) -> int:
        """Members that have entered."""
        return len(self.members)

    def plain(self) -> dict[str, Any]:
        """Tables, lists and values that msgpack carries."""
        return {
            "members": [
                {
                    "name": each.name,
                    "key": each.key,
                    "active": each.active,
                    "silent_s": each.silent_s,
                    "step": each.step,
                    "tokens": each.tokens,
                    "loss": each.loss,
                    "loss_is_finite": each.loss_is_finite,
                    "tokens_per_second": each.tokens_per_second,
                    "speed": each.speed,
                    "bytes_sent": each.bytes_sent,
                    "non_finite": each.non_finite,
                    "stage": each.stage,
                    "awaited": each.awaited,
                    "alike": each.alike,
                    "validation": each.validation,
                    "validated": each.validated,
                }
                for each in self.members
            ],
            "run": self.run_name,
            "epoch": self.epoch,
            "term": self.term,
            "head": self.head,
            "rounds": self.num_rounds,
            "rounds_wanted": self.max_rounds,
            "over": self.over,
            "open": [
                {
                    "serial": each.serial,
                    "fragment": each.fragment,
                    "attempt": each.attempt,
                    "members": each.num_members,
                }
                for each in self.open_rounds
            ],
            "model": self.model,
            "codec": self.codec,
            "elements": list(self.num_elements),
            "recent": [[each.fragment, each.num_members, each.seconds] for each in self.recent],
            "marks": [[each.accuser, each.accused, each.num_commits] for each in self.marks],
            "stopped": self.stopped,
            "tickets": [each.plain() for each in self.tickets],
            "waits": self.waits,
            "saved": self.saved_index,
            "saved_by": list(self.saved_by),
            "gossips": self.gossips,
            "commits": self.num_commits,
            "stages": [each.plain() for each in self.stages],
        }

    @classmethod
    def from_plain(cls, plain: object) -> RunStatus:
        """The status that a host sent. Names that are unknown here are passed over; raises `BadFrame` for
        anything that is missing, of another type, or larger than a run can be."""
        table = _Table(plain, "the status")
        return cls(
            members=tuple(_member(each) for each in table.rows("members", LIMITS.gossip_members)),
            run_name=table.text("run"),
            epoch=table.count("epoch"),
            term=table.count("term"),
            head=table.key("head"),
            num_rounds=table.count("rounds"),
            max_rounds=table.count("rounds_wanted"),
            over=table.flag("over"),
            open_rounds=tuple(_open_round(each) for each in table.rows("open", LIMITS.fragments)),
            model=table.text("model"),
            codec=table.text("codec"),
            num_elements=tuple(
                _checked_count(each, "elements") for each in table.rows("elements", LIMITS.fragments)
            ),
            recent=tuple(_summary(each) for each in table.rows("recent", LIMITS.message_items)),
            marks=tuple(_mark(each) for each in table.rows("marks", _MAX_MARKS)),
            stopped=table.flag("stopped"),
            tickets=tuple(
                TicketStatus.from_plain(each) for each in table.rows("tickets", 2 * LIMITS.invites)
            ),
            waits=table.text("waits"),
            saved_index=table.count("saved", least=-1),
            saved_by=tuple(
                _checked_text(each, "saved_by") for each in table.rows("saved_by", LIMITS.gossip_members)
            ),
            gossips=table.flag("gossips"),
            num_commits=table.count("commits"),
            stages=tuple(_stage(each) for each in table.rows("stages", LIMITS.stages)),
        )


def status_of(state: RunState, now: float, *, over: bool) -> RunStatus:
    """The run as its coordinator knows it at this moment."""
    first = state.courses[0]
    saved_index, saved_by = first.saves.newest(first.chain)
    if state.rules.gossips:
        saved_by = list(first.saves.by_member)
    awaited = awaited_members(state, now)
    return RunStatus(
        members=tuple(
            _status_of(state, now, entry, entry.key in awaited) for entry in state.roster.entered()
        ),
        run_name=state.rules.name,
        epoch=state.roster.epoch,
        term=state.term,
        head=first.chain.head,
        num_rounds=state.num_rounds,
        max_rounds=state.rules.rounds,
        over=over,
        open_rounds=tuple(
            OpenRoundStatus(each.serial, each.fragment, each.attempt, len(each.members))
            for course in state.courses.values()
            for each in course.rounds.values()
        ),
        model=first.manifest.model if first.manifest else "",
        codec=first.manifest.codec if first.manifest else "",
        num_elements=first.manifest.elements if first.manifest else (),
        recent=tuple(first.recent),
        marks=tuple(_marks_of(state)),
        stopped=state.stopped,
        tickets=state.tickets.status(state.roster),
        waits=waits_for(state, now),
        saved_index=saved_index,
        saved_by=tuple(state.roster.entries[key].name for key in saved_by[: LIMITS.gossip_members]),
        gossips=state.rules.gossips,
        num_commits=state.num_rounds if state.rules.gossips else first.chain.index,
        stages=tuple(_status_of_stage(state, now, course) for course in state.courses.values()),
    )


def _marks_of(state: RunState) -> list[MarkStatus]:
    """Those that last longest."""
    known = state.roster.entries
    marks = [
        MarkStatus(known[accuser].name, known[accused].name, num_commits)
        for course in state.courses.values()
        for accuser, accused, num_commits in course.suspicion.pairs(course.chain.index)
    ]
    return sorted(marks, key=lambda each: -each.num_commits)[:_MAX_MARKS]


def _status_of_stage(state: RunState, now: float, course: Course) -> StageStatus:
    here, chain = state.roster.entered_in(course.number), course.chain
    num_rounds = state.mode.num_rounds(course)
    ends = [each.ends for each in state.roster.entered_in(0) if each.ends is not None]
    return StageStatus(
        number=course.number,
        num_replicas=len(here),
        num_active=len(state.roster.active_in(course.number)),
        speed=sum(each.report.speed for each in here if each.report),
        num_rounds=num_rounds,
        num_commits=num_rounds if state.rules.gossips else chain.index,
        head=chain.head,
        model=course.manifest.model if course.manifest else "",
        saved_index=course.saves.newest(chain)[0],
        waits=course_waits_for(state, course, now),
        settled=0 if course.number else sum(each.settled for each in ends),
        partial=sum(sum(each.partial[course.number : course.number + 1]) for each in ends),
        lost=0 if course.number else sum(each.num_lost for each in ends),
    )


def _status_of(state: RunState, now: float, entry: Entry, awaited: bool) -> MemberStatus:
    heard_at = max(entry.entered_at, state.outlet.last_heard(now, entry.key))
    report = entry.report
    return MemberStatus(
        name=entry.name,
        key=entry.key,
        active=entry.active,
        silent_s=0.0 if entry.key == state.me else round(now - heard_at, 2),
        step=report.step if report else 0,
        tokens=report.tokens if report else 0,
        loss=report.loss if report else 0.0,
        loss_is_finite=report.loss_is_finite if report else True,
        tokens_per_second=report.tokens_per_second if report else 0.0,
        speed=report.speed if report else 0.0,
        bytes_sent=report.bytes_sent if report else 0,
        non_finite=report.non_finite if report else 0,
        stage=entry.course,
        awaited=awaited,
        alike=report.alike if report else False,
        validation=report.validation if report else 0.0,
        validated=report.validated if report else False,
    )


# -- reading what a host sent -----------------------------------------------------------------------


class _Table:
    """A table from another process; every value is checked when it is read."""

    def __init__(self, plain: object, what: str) -> None:
        if not isinstance(plain, dict):
            raise BadFrame(f"{what} is no table")
        self._plain = plain
        self._what = what

    def _value(self, name: str) -> object:
        if name not in self._plain:
            raise BadFrame(f"{self._what} has no {name}")
        found: object = self._plain[name]
        return found

    def count(self, name: str, least: int = 0) -> int:
        return _checked_count(self._value(name), name, least)

    def number(self, name: str) -> float:
        return _checked_number(self._value(name), name)

    def flag(self, name: str) -> bool:
        value = self._value(name)
        if not isinstance(value, bool):
            raise BadFrame(f"{name} is neither true nor false")
        return value

    def text(self, name: str) -> str:
        return _checked_text(self._value(name), name)

    def key(self, name: str) -> bytes:
        value = self._value(name)
        if not isinstance(value, bytes) or len(value) != _KEY_BYTES:
            raise BadFrame(f"{name} is not {_KEY_BYTES} bytes")
        return value

    def rows(self, name: str, max_rows: int) -> list[object]:
        value = self._value(name)
        if not isinstance(value, list) or len(value) > max_rows:
            raise BadFrame(f"{name} is no list of at most {max_rows}")
        return value


def _checked_text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise BadFrame(f"{name} is no text of at most {_MAX_TEXT} characters")
    return value


def _checked_count(value: object, name: str, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= _MAX_COUNT:
        raise BadFrame(f"{name} is no count")
    return value


def _checked_number(value: object, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise BadFrame(f"{name} is no finite number")
    return float(value)  # type: ignore[arg-type]


def _member(plain: object) -> MemberStatus:
    table = _Table(plain, "a member")
    return MemberStatus(
        name=table.text("name"),
        key=table.key("key"),
        active=table.flag("active"),
        silent_s=table.number("silent_s"),
        step=table.count("step"),
        tokens=table.count("tokens"),
        loss=table.number("loss"),
        loss_is_finite=table.flag("loss_is_finite"),
        tokens_per_second=table.number("tokens_per_second"),
        speed=table.number("speed"),
        bytes_sent=table.count("bytes_sent"),
        non_finite=table.count("non_finite"),
        stage=table.count("stage"),
        awaited=table.flag("awaited"),
        alike=table.flag("alike"),
        validation=table.number("validation"),
        validated=table.flag("validated"),
    )


def _stage(plain: object) -> StageStatus:
    table = _Table(plain, "a stage")
    return StageStatus(
        number=table.count("stage"),
        num_replicas=table.count("replicas"),
        num_active=table.count("active"),
        speed=table.number("speed"),
        num_rounds=table.count("rounds"),
        num_commits=table.count("commits"),
        head=table.key("head"),
        model=table.text("model"),
        saved_index=table.count("saved", least=-1),
        waits=table.text("waits"),
        settled=table.count("settled"),
        partial=table.count("partial"),
        lost=table.count("lost"),
    )


def _open_round(plain: object) -> OpenRoundStatus:
    table = _Table(plain, "an open round")
    return OpenRoundStatus(
        serial=table.count("serial"),
        fragment=table.count("fragment"),
        attempt=table.count("attempt"),
        num_members=table.count("members"),
    )


def _summary(plain: object) -> CommitSummary:
    if not isinstance(plain, list) or len(plain) != 3:
        raise BadFrame("a recent commit is no list of fragment, members and seconds")
    fragment, num_members, seconds = plain
    return CommitSummary(
        _checked_count(fragment, "a recent commit's fragment"),
        _checked_count(num_members, "a recent commit's members"),
        _checked_number(seconds, "a recent commit's seconds"),
    )


def _mark(plain: object) -> MarkStatus:
    if not isinstance(plain, list) or len(plain) != 3:
        raise BadFrame("a mark is no list of three")
    table = _Table({"accuser": plain[0], "accused": plain[1]}, "a mark")
    return MarkStatus(table.text("accuser"), table.text("accused"), _checked_count(plain[2], "commits"))
