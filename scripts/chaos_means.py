"""Recomputes every mean of a run under chaos from its records, and compares what workers hold.

Worker of column c adds 1 to every c-th element in each inner step, and the weight of a contribution is the
number of its steps. So a record alone says what it did: where it lists a worker with weight w of a total W,
that worker's column falls by w * w / W, and every other one by what others did. Where nobody told of the
state after a record, what it did is looked for in the next state that somebody told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chaos_history import undone
from chaos_story import KEY_DIGITS, Story, Verdict

from peers.protocol.record import Record

_ULP = 2.0**-23
"""Of fp32, relative."""


@dataclass(frozen=True, slots=True)
class _Path:
    """From a state that somebody told to a later one."""

    seen: Sequence[float]
    fall: tuple[float, ...]
    roundings: float = 0.0
    indexes: tuple[int, ...] = ()
    """Of the records on it."""

    def after(self, record: Record, column_of: Mapping[str, int]) -> _Path:
        fall, total = list(self.fall), sum(record.weights)
        for key, weight in zip(record.members, record.weights, strict=True):
            fall[column_of[key.hex()[:KEY_DIGITS]]] += weight * weight / total
        # Each step and each sum rounds once.
        roundings = self.roundings + 4 + max(record.weights)
        return _Path(self.seen, tuple(fall), roundings, (*self.indexes, record.index))

    def broken(self, found: Sequence[float]) -> Iterable[str]:
        """What came out, against what the records say."""
        which = " to ".join(map(str, dict.fromkeys((*self.indexes[:1], *self.indexes[-1:]))))
        for column, fall in enumerate(self.fall):
            moved = self.seen[column] - found[column]
            size = max(abs(self.seen[column]), abs(found[column]), 1.0)
            if not abs(moved - fall) <= _ULP * size * (4 + self.roundings):
                yield (
                    f"S3: commit {which} moved column {column} by {moved:.6g}, and its members and weights "
                    f"come to {fall:.6g}"
                )


def judge_states(story: Story, verdict: Verdict) -> Iterable[str]:
    """S1: whoever is at one head holds one state. S3, S6: each record did what it says."""
    same = _same_states(story.records)
    values: dict[str, Sequence[float]] = {}
    digests: dict[str, tuple[str, str]] = {}
    for line in story.lines:
        if "state" not in line:
            continue
        head = same.get(line["head"], line["head"])
        first, who = digests.setdefault(head, (line["state"], line["key"]))
        if first != line["state"]:
            yield f"S1: at commit {line['index']} {line['key']} and {who} hold different states"
        if not line["even"]:
            yield f"S1: at commit {line['index']} elements of one column differ ({line['key']})"
        values.setdefault(head, line["values"])
    yield from _broken_means(story, values, same, verdict)


def _same_states(records: Sequence[Record]) -> dict[str, str]:
    """By head of a restoring record the head whose state it goes back to."""
    same: dict[str, str] = {}
    for record in records:
        if record.restores:
            result = record.result.hex()
            same[record.hash().hex()] = same.get(result, result)
    return same


def _broken_means(
    story: Story, values: Mapping[str, Sequence[float]], same: Mapping[str, str], verdict: Verdict
) -> Iterable[str]:
    strangers = {
        key.hex()[:KEY_DIGITS] for record in story.records for key in record.members
    } - story.column_of.keys()
    if strangers:
        yield f"S3: records count {', '.join(sorted(strangers))}, who never told of a life"
        return
    nothing = (0.0,) * story.columns
    paths = {head: _Path(seen, nothing) for head, seen in values.items()}
    recomputed: set[int] = set()
    rounds = [record for record in story.records if not record.restores]
    for record in rounds:
        parent, head = record.parent.hex(), record.hash().hex()
        before = paths.get(same.get(parent, parent))
        if before is None:
            continue
        path = before.after(record, story.column_of)
        if head in values:
            recomputed.update(path.indexes)
            yield from path.broken(values[head])
        else:
            paths[head] = path
    verdict.means = len(recomputed)
    last = max(recomputed, default=0)
    verdict.unheard = sum(record.index > last for record in rounds)
    given_up = {record.index for _, record in undone(story.records)}
    for record in rounds:
        if record.index < last and record.index not in recomputed | given_up:
            yield f"S3: nobody told of a state from which commit {record.index} can be recomputed"
