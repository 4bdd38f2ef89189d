"""The oracle of scripts/chaos finds each kind of lie, planted one at a time in a story that is true."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from chaos_faults import KINDS, SECONDS, draw
from chaos_oracle import (
    DESCRIPTORS,
    GROWN,
    KEY_DIGITS,
    MEMORY,
    THREADS,
    LostDisk,
    Sample,
    Story,
    judge,
    recoveries,
)

from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.record import Record

ANN, BOB = b"a" * 32, b"b" * 32
NAMES = {ANN: "ann", BOB: "bob"}


def record(parent: bytes, index: int, weights: dict[bytes, int], result: bytes = bytes(32)) -> Record:
    fragment = 0 if weights else ALL_FRAGMENTS
    return Record(parent, index, fragment, 1, index, 1024, tuple(weights), tuple(weights.values()), result)


def line(event: str, key: bytes, at: float, **fields: Any) -> dict[str, Any]:
    name = NAMES[key]
    return {"event": event, "key": key.hex()[:KEY_DIGITS], "life": 1, "name": name, "at": at, **fields}


def story() -> Story:
    """Three commits and one that restores: ann alone, both, back to the state of the first, both again."""
    head, values = bytes(range(32)), [5.0, 7.0]
    lines = [line("active", key, 0.0, index=0, head=head.hex(), **held("0", values)) for key in NAMES]
    records: list[Record] = []
    after_first: list[float] = []
    number = dict.fromkeys(NAMES, 0)
    for index, weights in enumerate([{ANN: 5}, {ANN: 5, BOB: 10}, {}, {ANN: 3, BOB: 1}], 1):
        made = record(head, index, weights, records[0].hash() if not weights else bytes(32))
        records.append(made)
        head = made.hash()
        if not weights:
            values = after_first
            continue
        total = sum(weights.values())
        values = [values[0] - weights.get(ANN, 0) ** 2 / total, values[1] - weights.get(BOB, 0) ** 2 / total]
        after_first = after_first or values
        for key in NAMES:
            number[key] += key in weights
            own = number[key] if key in weights else None
            told = {"index": index, "head": head.hex(), "number": own, "members": len(weights)}
            lines.append(line("committed", key, index + 0.5, **told, **held(str(index), values)))
            if own is not None:
                fate = {"fate": "applied", "tokens": weights[key], "reason": head.hex()}
                lines.append(line("fate", key, index + 0.5, number=own, **fate))
    samples = [Sample("ann", 1, at, 300.0, 9, 30) for at in (0.0, 70.0, 80.0)]
    bounds = {GROWN: 20.0, MEMORY: 400.0, THREADS: 10.0, DESCRIPTORS: 40.0}
    columns = {key.hex()[:KEY_DIGITS]: column for column, key in enumerate(NAMES)}
    return Story(2, records, lines, samples, bounds, columns, [LostDisk(BOB.hex()[:KEY_DIGITS], 2.0, 3.0)])


def held(state: str, values: list[float]) -> dict[str, Any]:
    return {"state": state, "values": list(values), "even": True}


def told(of: Story, event: str, key: bytes, index: int = 0) -> dict[str, Any]:
    found = [each for each in of.lines if each["event"] == event and each["name"] == NAMES[key]]
    assert isinstance(found[index], dict)
    return found[index]


def test_a_true_story_is_believed_and_all_of_it_is_looked_at() -> None:
    verdict = judge(story())
    assert verdict.broken == []
    assert (verdict.rounds, verdict.restored, verdict.means, verdict.lives) == (4, 1, 3, 2)
    assert verdict.fates == {"applied": 5}
    assert verdict.most == {GROWN: 0.0, MEMORY: 300.0, THREADS: 9.0, DESCRIPTORS: 30.0}


def another_weight(of: Story) -> None:
    """The record says that ann counted with 4; it was 5, which is what it was told."""
    first = replace(of.records[0], weights=(4,))
    renamed(of, 0, first)


def renamed(of: Story, index: int, made: Record) -> None:
    """All that follows from a record that is another one, its name above all."""
    records = list(of.records)
    names = {records[index].hash().hex(): made.hash().hex()}
    records[index] = made
    for later in range(index + 1, len(records)):
        old = records[later]
        result = bytes.fromhex(names.get(old.result.hex(), old.result.hex()))
        records[later] = replace(old, parent=records[later - 1].hash(), result=result)
        names[old.hash().hex()] = records[later].hash().hex()
    of.records = records
    for each in of.lines:
        assert isinstance(each, dict)
        for name in ("head", "reason"):
            if name in each:
                each[name] = names.get(each[name], each[name])


def stranger_in_a_record(of: Story) -> None:
    """Bob is not in the first record; a line says that he is."""
    told(of, "committed", BOB)["number"] = 1


LIES: dict[str, tuple[str, Callable[[Story], None]]] = {
    "a record without the one before": ("S2", lambda of: setattr(of, "records", of.records[1:])),
    "a gap in the chain": ("S2", lambda of: setattr(of, "records", [*of.records[:1], *of.records[2:]])),
    "a round that was lost for nothing": ("DU3", lambda of: setattr(of, "lost_disks", ())),
    "a state of its own": ("S1", lambda of: told(of, "committed", BOB).update(state="other")),
    "elements that differ": ("S1", lambda of: told(of, "committed", BOB).update(even=False)),
    "a sum that lacks one": (
        "S3",
        lambda of: told(of, "committed", ANN, 1).update(values=told(of, "committed", ANN)["values"]),
    ),
    "a state that is not restored": (
        "S3",
        lambda of: told(of, "committed", ANN, 2)["values"].__setitem__(0, 1.5),
    ),
    "another weight": ("S3", another_weight),
    "a number that is none": ("S3", lambda of: told(of, "committed", ANN)["values"].__setitem__(0, math.nan)),
    "in a record that lists others": ("S3", stranger_in_a_record),
    "two fates": ("S4", lambda of: told(of, "fate", ANN, 1).update(number=1)),
    "applied by no record": ("S4", lambda of: told(of, "fate", ANN).update(reason="00" * 32)),
    "applied with other tokens": ("S4", lambda of: told(of, "fate", ANN).update(tokens=6)),
    "memory that grows": ("R1", lambda of: sampled(of, mib=330.0)),
    "too much memory": ("R1", lambda of: sampled(of, mib=401.0)),
    "too many threads": ("R3", lambda of: sampled(of, threads=11)),
    "too many descriptors": ("R3", lambda of: sampled(of, descriptors=41)),
}


def sampled(of: Story, **fields: Any) -> None:
    of.samples = [*of.samples[:-1], replace(of.samples[-1], **fields)]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie: str) -> None:
    number, plant = LIES[lie]
    lied = copy.deepcopy(story())
    plant(lied)
    broken = judge(lied).broken
    assert any(each.startswith(number) for each in broken), broken


@pytest.mark.parametrize(
    ("since", "until", "saved_at", "may_lack_it"),
    [(2.0, 3.0, None, True), (2.0, 3.0, 4.0, True), (1.0, 2.0, 2.2, False), (2.6, 9.0, None, False)],
)
def test_a_disk_that_was_full_lacks_commits_until_the_next_checkpoint(
    since: float, until: float, saved_at: float | None, may_lack_it: bool
) -> None:
    """Commit 2, at 2.5, is lost."""
    of = story()
    of.lost_disks = [LostDisk(BOB.hex()[:KEY_DIGITS], since, until)]
    of.lines = [*of.lines, *([line("saved", BOB, saved_at)] if saved_at else [])]
    assert any(each.startswith("DU3") for each in judge(of).broken) is not may_lack_it


def test_recovery_is_until_the_next_commit_of_somebody_else() -> None:
    faults = [("kill", "ann", 1.6), ("kill", "ann", 4.6), ("cut", "bob", 1.0)]
    lines = [line("committed", key, at) for at, key in ((1.7, ANN), (2.5, BOB), (1.5, BOB), (1.8, ANN))]
    found = recoveries(faults, lines)
    assert found["kill"] == [pytest.approx(0.9), math.inf]
    assert found["cut"] == [pytest.approx(0.7)]


def test_the_same_seed_draws_the_same_faults_and_every_kind_comes() -> None:
    drawn = list(draw(3, 8, 600.0, 1.0))
    assert drawn == list(draw(3, 8, 600.0, 1.0))
    assert drawn != list(draw(4, 8, 600.0, 1.0))
    assert {fault.kind for fault in drawn} == set(KINDS)
    assert all(SECONDS[f.kind][0] <= f.seconds <= SECONDS[f.kind][1] for f in drawn)
    assert all(0 <= fault.who < 8 and fault.at_s < 600.0 for fault in drawn)
