"""What scripts/chaos asks of the chain of records: it is one, and loses nothing that a disk has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from chaos_story import KEY_DIGITS, Line, LostDisk, Story

from peers.protocol.record import Record


def broken_chain(records: Sequence[Record]) -> Iterable[str]:
    """S2: one chain, from its beginning on and without a gap, that goes back to states of its own only."""
    if records and records[0].index != 1:
        yield f"S2: the journal begins with record {records[0].index}"
    for before, record in pairwise(records):
        if record.parent != before.hash() or record.index != before.index + 1:
            yield f"S2: record {record.index} does not follow record {before.index}"
    heads = {record.parent for record in records[:1]}
    for record in records:
        if record.restores and record.result not in heads:
            yield f"S2: record {record.index} goes back to a state that no record before it leads to"
        heads.add(record.hash())


def second_histories(lines: Iterable[Line], known: Mapping[str, Record]) -> Iterable[str]:
    """S2: nobody holds what the host did not write down first."""
    told: set[tuple[str, str]] = set()
    first: dict[int, str] = {}
    for line in lines:
        if not line.get("index") or "head" not in line or (line["key"], line["head"]) in told:
            continue
        key, index, head = line["key"], line["index"], line["head"]
        told.add((key, head))
        if head not in known:
            yield f"S2: {key} holds commit {index}, which is not in the journal"
        elif known[head].index != index:
            yield f"S2: {key} takes commit {known[head].index} for commit {index}"
        if first.setdefault(index, head) != head:
            yield f"S2: there are two commits {index}, and {key} holds the other one"


def undone(records: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Each restoring record with each one that it gives up, the newest first."""
    standing: list[Record] = []
    for record in records:
        while record.restores and standing and standing[-1].hash() != record.result:
            yield record, standing.pop()
        standing.append(record)


def lost_for_nothing(story: Story) -> Iterable[str]:
    """DU3: no committed round is lost while a disk of one that was in it leads to it."""
    heard: dict[str, float] = {}
    for line in story.lines:
        if line["event"] == "committed":
            heard[line["head"]] = min(line["at"], heard.get(line["head"], math.inf))
    disks = _Disks(story)
    for _, record in undone(story.records):
        at = heard.get(record.hash().hex(), math.inf)
        for key in record.members:
            if disks.leads_to(key.hex()[:KEY_DIGITS], at):
                yield f"DU3: commit {record.index} is lost, and the disk of {key.hex()[:KEY_DIGITS]} has it"
                break


class _Disks:
    """How far the disks of workers lead."""

    def __init__(self, story: Story) -> None:
        self._lost = story.lost_disks
        self._told: dict[str, list[tuple[float, bool]]] = {}
        """By key, when it wrote a checkpoint (true), or took up a state that its results do not lead to."""
        for line in story.lines:
            if line["event"] in ("saved", "active", "FellBehind"):
                self._told.setdefault(line["key"], []).append((line["at"], line["event"] == "saved"))

    def leads_to(self, key: str, at: float) -> bool:
        """Whether a checkpoint and the results since lead to what was committed then."""
        newest = max((told for told in self._told.get(key, ()) if told[0] <= at), default=(0.0, False))
        return newest[1] and not any(self._lacks(lost, at) for lost in self._lost if lost.key == key)

    def _lacks(self, lost: LostDisk, at: float) -> bool:
        """What a full disk lacked is there with the next checkpoint."""
        saved = (when for when, is_save in self._told[lost.key] if is_save and when > lost.until)
        return lost.since <= at and not lost.until < min(saved, default=math.inf) <= at
