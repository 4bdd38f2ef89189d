"""What must be true of a run under chaos, told from the host's journal and from what its workers wrote.

It recomputes what each record did (chaos_means.py) and believes nobody's sums, follows the chain of records
(chaos_history.py) and the fates of contributions, and looks at what processes took (chaos_usage.py). Pure: no
processes, no clock, no files.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from chaos_history import broken_chain, lost_for_nothing, second_histories
from chaos_means import judge_states
from chaos_story import KEY_DIGITS, Line, Story, Verdict
from chaos_usage import too_much

from peers.protocol.record import Record

STANDSTILL = "L1: seconds without a commit"
"""Most that may lie between two commits, among `Story.bounds`."""


def judge(story: Story) -> Verdict:
    """Look at everything."""
    verdict = Verdict(rounds=len(story.records), restored=sum(record.restores for record in story.records))
    known = {record.hash().hex(): record for record in story.records}
    verdict.broken += broken_chain(story.records)
    verdict.broken += second_histories(story.lines, known)
    verdict.broken += lost_for_nothing(story)
    verdict.broken += judge_states(story, verdict)
    verdict.broken += _broken_fates(story.lines, known, verdict)
    verdict.broken += _standstill(story, verdict)
    verdict.broken += too_much(story, verdict)
    return verdict


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
            if line["number"] not in fates[who]:  # it is told before the commit is
                yield f"S4: contribution {line['number']} of {line['key']} has no fate"
    verdict.lives = len({(line["key"], line["life"]) for line in lines})


def _weight_in(record: Record, key: str) -> float | None:
    for member, weight in zip(record.members, record.weights, strict=True):
        if member.hex()[:KEY_DIGITS] == key:
            return weight
    return None


def commit_times(lines: Iterable[Line]) -> list[float]:
    """When the first worker heard of each commit, in order."""
    first: dict[int, float] = {}
    for line in lines:
        if line["event"] == "committed":
            first[line["index"]] = min(line["at"], first.get(line["index"], math.inf))
    return sorted(first.values())


def _standstill(story: Story, verdict: Verdict) -> Iterable[str]:
    """L1: commits go on, whatever happens, until processes are looked at no more."""
    times = [*commit_times(story.lines), *(sample.at for sample in story.samples[-1:])]
    gap = max((after - before for before, after in pairwise(times)), default=0.0)
    verdict.most[STANDSTILL] = gap
    if gap > story.bounds.get(STANDSTILL, math.inf):
        yield f"{STANDSTILL}: {gap:.0f}, and {story.bounds[STANDSTILL]:.0f} are enough"


def recoveries(faults: Iterable[tuple[str, str, float]], lines: Iterable[Line]) -> dict[str, list[float]]:
    """By kind of fault, seconds from each one (kind, victim's name, when) to the next commit that somebody
    else hears of; infinity where none followed."""
    commits = sorted((line["at"], line["name"]) for line in lines if line["event"] == "committed")
    found: dict[str, list[float]] = defaultdict(list)
    for kind, victim, at in faults:
        after = range(bisect_right(commits, (at, "\U0010ffff")), len(commits))
        heard = next((commits[place][0] for place in after if commits[place][1] != victim), math.inf)
        found[kind].append(heard - at)
    return found
