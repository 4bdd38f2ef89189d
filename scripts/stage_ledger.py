"""What replicas of a pipeline told, judged: was each microbatch counted as its end says, and never twice?

Owns the sentences, and the sums of tokens by stage; pure, over lines of stage_worker.py and commits of a
host. A microbatch goes up before anybody counts it, and gradients come down: so the stages that count one are
the last ones of the model, down to some stage. It is settled if that is stage 0; partial below a stage if it
is that one, or one above; and a lost one nobody counts. What a membership counted and no commit has, once
that membership is over, is void.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a host wrote about one member: its key, in hex, and its weight."""

    key: str
    weight: float
    life: int = 0
    """The process whose contribution it counts; 0 if that member has had one only."""
    stage: int | None = None
    """Of the round, where members move from stage to stage."""


@dataclass(slots=True)
class Life:
    """One process."""

    number: int
    name: str
    key: str
    stage: int
    since_step: list[str] = field(default_factory=list)
    in_flight: set[str] = field(default_factory=set)
    """Went forward, and is not counted."""
    counted: list[tuple[str, int]] = field(default_factory=list)
    """With their tokens, in order."""
    names: set[str] = field(default_factory=set)
    """Of those that a later offer may hold."""
    void: int = 0
    """So many, from the first on, can be in no later offer."""
    offers: list[list[tuple[str, int]]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    applied: set[int] = field(default_factory=set)
    """Numbers of offers, from 1."""
    ended: set[int] = field(default_factory=set)
    taken_back: set[int] = field(default_factory=set)
    asked: tuple[int, float] | None = None
    """An offer of which it is not known whether the member took it."""
    unsettled: int = 0
    """Fed by the present membership, and not ended."""
    membership: int = 0


@dataclass(slots=True)
class Found:
    """What a run came to."""

    broken: list[str] = field(default_factory=list)
    ends: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    """By microbatch: how, of which stage, why."""
    counted: dict[int, int] = field(default_factory=dict)
    """By stage: tokens of microbatches whose feeder told their end, each once."""
    expected: dict[int, int] = field(default_factory=dict)
    """By stage: tokens of those that are settled, and of partial ones given up below it or lower that it
    counted."""
    void_tokens: int = 0
    committed_tokens: int = 0

    def num(self, how: str) -> int:
        """Microbatches that ended so."""
        return sum(each[0] == how for each in self.ends.values())


def judge(
    lines: Iterable[Line], commits: Iterable[Commit], stages: int, window: int, gone: Container[object]
) -> Found:
    """All that was told so far. ``lines`` of stage 0 are to be read before those of later stages, and commits
    after all of them; ``gone`` are keys of members, or processes, whose membership is over, or KEY/STAGE of
    one that moved on."""
    found, lives = Found(), dict[int, Life]()
    seen: dict[str, dict[int, int]] = defaultdict(dict)
    """By microbatch and stage: its tokens."""
    for line in lines:
        life = lives.get(line["life"])
        if life is None and "stage" in line:
            life = lives[line["life"]] = Life(line["life"], line["name"], line["key"], line["stage"])
        if life is not None:
            _take(found, life, line, seen, window)
    _check_commits(found, lives.values(), list(commits), gone)
    _check_ends(found, seen, stages)
    return found


def _take(found: Found, life: Life, line: Line, seen: dict[str, dict[int, int]], window: int) -> None:
    match line["what"]:
        case "ForwardDone":
            life.in_flight.add(line["of"])
        case "Counted":
            _count(found, life, line)
            seen[line["of"]][life.stage] = line["tokens"]
        case "GivenUp":
            life.in_flight.discard(line["of"])
        case "Stepped":
            if line["of"] != life.since_step:
                found.broken.append(f"{life.name} steps with {line['of']} and counted {life.since_step}")
            if life.in_flight:
                found.broken.append(f"{life.name} steps with {sorted(life.in_flight)} in flight")
            life.since_step = []
        case "StreamOpened":
            _begin_anew(life, line)
        case "FeedTaken":
            life.unsettled += 1
            if life.unsettled > window:
                found.broken.append(f"{life.name}: {life.unsettled} microbatches have not ended")
        case "MicrobatchEnded":
            if line["of"] in found.ends:
                found.broken.append(f"{line['of']} ends twice")
            found.ends[line["of"]] = (line["how"], line["stage_of"], line["cause"])
            life.unsettled -= line["of"].split("/")[1] == str(life.membership)
        case _:
            _take_offer(found, life, line)


def _count(found: Found, life: Life, line: Line) -> None:
    life.in_flight.discard(line["of"])
    life.since_step.append(line["of"])
    if line["of"] in life.names:
        found.broken.append(f"{life.name} counts {line['of']} twice")
    life.names.add(line["of"])
    life.counted.append((line["of"], line["tokens"]))


def _begin_anew(life: Life, line: Line) -> None:
    """What no step took is dropped with the membership that counted it."""
    if life.since_step:
        del life.counted[-len(life.since_step) :]
    life.in_flight.clear()
    life.since_step = []
    life.membership, life.unsettled = line["membership"], 0
    if line["void"]:
        life.void = len(life.counted)
    life.names = {name for name, _ in life.counted[life.void :]}


def _take_offer(found: Found, life: Life, line: Line) -> None:
    match line["what"]:
        case "Offer":
            life.asked = line["tokens"], line["weight"]
        case "OfferTaken":
            _offer(found, life)
        case "OfferRefused":
            life.asked = None
        case "TakeBackTaken":
            life.taken_back.add(len(life.offers))
        case "ContributionEnded":
            life.ended.add(line["number"])
            if line["fate"] == "applied":
                life.applied.add(line["number"])


def _offer(found: Found, life: Life) -> None:
    """It holds the newest of what was counted."""
    assert life.asked is not None, "it was asked before"
    (tokens, weight), life.asked = life.asked, None
    mine: list[tuple[str, int]] = []
    left = tokens
    for each in reversed(life.counted[life.void :]):
        if left <= 0:
            break
        mine.append(each)
        left -= each[1]
    if left or weight != tokens:
        found.broken.append(f"{life.name} offers {tokens} tokens of weight {weight}: {left} are of nothing")
    life.offers.append(mine)
    life.weights.append(weight)


def _check_commits(
    found: Found, lives: Iterable[Life], commits: list[Commit], gone: Container[object]
) -> None:
    """What commits count, and what members that stand have, is counted once a stage."""
    once: dict[tuple[int, str], str] = {}
    lives = sorted(lives, key=lambda life: life.number)
    for life in lives:
        records = [each for each in commits if _is_of(each, life)]
        if not all(each.life for each in records):  # one that moved away and came back has two
            records = _turn_of(life, [each for each in lives if _is_same(each, life)], records)
        committed = [each for number in _committed(found, life, records) for each in life.offers[number - 1]]
        found.committed_tokens += sum(tokens for _, tokens in committed)
        names = [each for each, _ in committed]
        if any(each in gone for each in (life.key, life.number, f"{life.key}/{life.stage}")):
            found.void_tokens += sum(tokens for each, tokens in life.counted if each not in set(names))
        else:
            names += sorted({each for each, _ in life.counted[life.void :]} - set(names))
        for name in names:
            if (life.stage, name) in once:
                who = f"{once[life.stage, name]} and {life.name}"
                found.broken.append(f"stage {life.stage} counts {name} twice: {who}")
            once[life.stage, name] = life.name


def _is_of(commit: Commit, life: Life) -> bool:
    is_in = commit.stage is None or commit.stage == life.stage
    return commit.key == life.key and commit.life in (0, life.number) and is_in


def _is_same(life: Life, other: Life) -> bool:
    return (life.key, life.stage) == (other.key, other.stage)


def _turn_of(life: Life, in_turn: list[Life], records: list[Commit]) -> list[Commit]:
    """Those of one life of a member in a stage, which has had these one after the other."""
    begins = 0
    for index, each in enumerate(in_turn):
        left = len(records) - begins - sum(len(later.applied) for later in in_turn[index + 1 :])
        most = len(each.applied) + len(_may_be(each))
        ends = begins + (left if index == len(in_turn) - 1 else min(left, most))
        if each is life:
            return records[begins:ends]
        begins = ends
    raise AssertionError("it is one of them")


def _may_be(life: Life) -> list[int]:
    """Offers of which it was not told what became of them."""
    return [n for n in range(1, len(life.offers) + 1) if n not in life.ended | life.taken_back]


def _committed(found: Found, life: Life, records: list[Commit]) -> list[int]:
    """Numbers of offers that records count: those that the process was told of, and of a dead one perhaps the
    last."""
    if life.asked is not None:
        _offer(found, life)
    numbers = sorted(life.applied)
    may_be = _may_be(life)
    missing = len(records) - len(numbers)
    if not 0 <= missing <= len(may_be):
        found.broken.append(
            f"{life.name}: {len(records)} records have it, {len(numbers)} of its offers are applied, and"
            f" {len(may_be)} may be"
        )
        return numbers
    numbers = sorted(numbers + may_be[:missing])
    for record, number in zip(records, numbers, strict=True):
        if life.weights[number - 1] != record.weight:
            weight = life.weights[number - 1]
            found.broken.append(f"{life.name}: a record counts {record.weight} of {weight}")
    return numbers


def _check_ends(found: Found, seen: Mapping[str, Mapping[int, int]], stages: int) -> None:
    for stage in range(stages):
        found.counted[stage] = found.expected[stage] = 0
    for name, by in seen.items():
        if sorted(by) != list(range(stages - len(by), stages)) or len(set(by.values())) > 1:
            found.broken.append(f"{name} is counted so by stage: {dict(by)}")
        for stage, tokens in by.items():
            found.counted[stage] += tokens if name in found.ends else 0
    for name, (how, below, cause) in found.ends.items():
        by = seen.get(name, {})
        lowest = min(by, default=stages)
        if how == "settled":
            right, wanted = lowest == 0, range(stages)
        elif how == "partial":
            right, wanted = lowest >= below, range(max(lowest, below), stages)
        else:
            right, wanted = lowest == stages, range(0)
        if not right:
            found.broken.append(f"{name} is {how} ({cause}, {below}), and stages {sorted(by)} count it")
        tokens = max(by.values(), default=0)
        for stage in wanted:
            found.expected[stage] += tokens
