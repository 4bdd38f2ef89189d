"""What must be true of a run under chaos, told from the host's journal and from what its workers wrote.

Worker of column c adds 1 to every c-th element in each inner step, and the weight of a contribution is the
number of its steps. So a record alone says what it did: where it lists a worker with weight w of a total W,
that worker's column falls by w * w / W, and every other one by what others did. The oracle recomputes that
for each record whose state before and after somebody saw, and believes nobody's sums. Pure: no processes,
no clock, no files.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from peers.protocol.record import Record

Line = Mapping[str, Any]
"""What a worker told: its ``event``, when (``at``), its ``key`` and ``life``, and the fields of the event."""
KEY_DIGITS = 16
GROWN, MEMORY, THREADS, DESCRIPTORS = (
    "R1: MiB more than after its first minute",
    "R1: MiB",
    "R3: threads",
    "R3: descriptors",
)
"""What is measured of a process."""
_SETTLED_S = 60.0
_ULP = 2.0**-23
"""Of fp32, relative."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process took at a moment."""

    name: str
    life: int
    at: float
    mib: float
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class LostDisk:
    """A disk that lacks what was committed between two moments: since it was made where it is gone, and since
    it was full."""

    key: str
    since: float
    until: float


@dataclass(slots=True)
class Story:
    """All that is known of a run."""

    columns: int
    records: Sequence[Record]
    lines: Sequence[Line]
    samples: Sequence[Sample] = ()
    bounds: Mapping[str, float] = field(default_factory=dict)
    """By what is measured, most that a process may take of it."""
    column_of: dict[str, int] = field(default_factory=dict)
    """By the first digits of a worker's key."""
    lost_disks: Sequence[LostDisk] = ()


@dataclass(slots=True)
class Verdict:
    """What is broken, each as one line, and how much was looked at."""

    broken: list[str] = field(default_factory=list)
    rounds: int = 0
    restored: int = 0
    means: int = 0
    """Records whose mean was recomputed."""
    fates: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    most: dict[str, float] = field(default_factory=dict)
    """By what is measured, most that a process took of it."""


def judge(story: Story) -> Verdict:
    """Look at everything."""
    verdict = Verdict(rounds=len(story.records), restored=sum(record.restores for record in story.records))
    verdict.broken += _broken_chain(story.records)
    verdict.broken += _lost_for_nothing(story)
    states = _States(story.columns)
    for line in story.lines:
        verdict.broken += states.told(line)
    known = {record.hash().hex(): record for record in story.records}
    verdict.broken += _unknown(story.lines, known)
    for record in story.records:
        broken = None if record.restores else states.mean_of(record, known, story.column_of)
        if broken is not None:
            verdict.means += 1
            verdict.broken += broken
    verdict.broken += _broken_fates(story.lines, known, verdict)
    verdict.broken += _too_much(story, verdict)
    return verdict


def _broken_chain(records: Sequence[Record]) -> Iterable[str]:
    """S2: one chain, without a gap."""
    for before, record in pairwise(records):
        if record.parent != before.hash() or record.index != before.index + 1:
            yield f"S2: record {record.index} does not follow record {before.index}"


def _lost_for_nothing(story: Story) -> Iterable[str]:
    """DU3: no committed round is lost while the disks of all who were in it live."""
    told = {line["head"]: line["at"] for line in reversed(story.lines) if line["event"] == "committed"}
    for before, record in pairwise(story.records):
        at = told.get(before.hash().hex())
        if not record.restores or before.restores or at is None:
            continue
        if not any(_is_lost(story, key.hex()[:KEY_DIGITS], at) for key in before.members):
            yield f"DU3: commit {before.index} is lost, and the disks of all its members live"


def _is_lost(story: Story, key: str, at: float) -> bool:
    """Whether a worker's disk may lack what was committed then: what a full one lacked is there with
    the next checkpoint."""
    for lost in story.lost_disks:
        if lost.key == key and lost.since <= at:
            saves = (x["at"] for x in story.lines if x["event"] == "saved" and x["key"] == key)
            if not lost.until < min((saved for saved in saves if saved > lost.until), default=math.inf) <= at:
                return True
    return False


def _unknown(lines: Sequence[Line], known: Mapping[str, Record]) -> Iterable[str]:
    """S2: nobody applies what the host did not write down first."""
    for line in lines:
        if line["event"] == "committed" and line["head"] not in known:
            yield f"S2: {line['key']} applied commit {line['index']}, which is not in the journal"


class _States:
    """The states that workers told of, by head (S1)."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._digests: dict[str, tuple[str, str]] = {}
        self._values: dict[str, list[float]] = {}

    def told(self, line: Line) -> Iterable[str]:
        if "state" not in line:
            return
        head, state = line["head"], line["state"]
        first, who = self._digests.setdefault(head, (state, line["key"]))
        if first != state:
            yield f"S1: at commit {line['index']} {line['key']} and {who} hold different states"
        if not line["even"]:
            yield f"S1: at commit {line['index']} elements of one column differ ({line['key']})"
        self._values.setdefault(head, line["values"])

    def mean_of(
        self, record: Record, known: Mapping[str, Record], column_of: Mapping[str, int]
    ) -> list[str] | None:
        """What a record did against what it says (S3, S6); None if nobody saw the state before or after."""
        head, after = record.parent.hex(), self._values.get(record.hash().hex())
        while head in known and known[head].restores:
            head = known[head].result.hex()
        before = self._values.get(head)
        if before is None or after is None:
            return None
        expected, total = [0.0] * self._columns, sum(record.weights)
        for key, weight in zip(record.members, record.weights, strict=True):
            expected[column_of[key.hex()[:KEY_DIGITS]]] += weight * weight / total
        broken = []
        for column, fall in enumerate(expected):
            # Each step and each sum rounds once, relative to the value that it moves.
            size = max(abs(before[column]), abs(after[column]), 1.0)
            error = abs(before[column] - after[column] - fall)
            if not error <= _ULP * size * (4 + max(record.weights)):
                moved = before[column] - after[column]
                broken.append(
                    f"S3: commit {record.index} moved column {column} by {moved:.6g}, and its members and "
                    f"weights come to {fall:.6g}"
                )
        return broken


def _broken_fates(lines: Sequence[Line], known: Mapping[str, Record], verdict: Verdict) -> Iterable[str]:
    """S3, S4: a contribution has one fate; "applied" is said of what a record counts with its weight, and a
    life finds itself in a record only by a contribution of its own."""
    fates: dict[tuple[str, int], set[int]] = defaultdict(set)
    counted: set[tuple[str, str]] = set()
    for line in lines:
        who = (line["key"], line["life"])
        if line["event"] == "fate":
            verdict.fates[line["fate"]] += 1
            if line["number"] in fates[who]:
                yield f"S4: contribution {line['number']} of {line['key']} has two fates"
            fates[who].add(line["number"])
            if line["fate"] == "applied":
                record = known.get(line["reason"])
                if record is None or _weight_in(record, line["key"]) != line["tokens"]:
                    yield f"S4: {line['tokens']} tokens of {line['key']} are in no record"
        elif line["event"] == "committed" and line["number"] is not None and line["head"] in known:
            record = known[line["head"]]
            if _weight_in(record, line["key"]) is None:
                yield f"S3: {line['key']} is told to be in commit {line['index']}, and is not"
            if (line["key"], line["head"]) in counted:
                yield f"S3: {line['key']} is in commit {line['index']} twice"
            counted.add((line["key"], line["head"]))
    verdict.lives = len({(line["key"], line["life"]) for line in lines})


def _weight_in(record: Record, key: str) -> float | None:
    for member, weight in zip(record.members, record.weights, strict=True):
        if member.hex()[:KEY_DIGITS] == key:
            return weight
    return None


def _too_much(story: Story, verdict: Verdict) -> Iterable[str]:
    """R1, R3: no process takes more than the bounds."""
    began: dict[tuple[str, int], float] = {}
    settled: dict[tuple[str, int], float] = {}
    most: dict[tuple[str, str], float] = defaultdict(float)
    for sample in story.samples:
        life = sample.name, sample.life
        if sample.at - began.setdefault(life, sample.at) >= _SETTLED_S:
            growth = sample.mib - settled.setdefault(life, sample.mib)
            most[GROWN, sample.name] = max(growth, most[GROWN, sample.name])
        for what, found in (
            (MEMORY, sample.mib),
            (THREADS, sample.threads),
            (DESCRIPTORS, sample.descriptors),
        ):
            most[what, sample.name] = max(found, most[what, sample.name])
    for (what, name), found in most.items():
        verdict.most[what] = max(found, verdict.most.get(what, 0.0))
        if found > story.bounds.get(what, math.inf):
            yield f"{what}: {found:.0f} of {name}, and {story.bounds[what]:.0f} are enough"


def recoveries(faults: Iterable[tuple[str, str, float]], lines: Iterable[Line]) -> dict[str, list[float]]:
    """By kind of fault, seconds from each one (kind, victim's name, when) to the next commit that somebody
    else hears of; infinity where none followed."""
    commits = sorted((line["at"], line["name"]) for line in lines if line["event"] == "committed")
    found: dict[str, list[float]] = defaultdict(list)
    for kind, victim, at in faults:
        after = (when for when, name in commits if when > at and name != victim)
        found[kind].append(next(after, math.inf) - at)
    return found
