"""The oracle of scripts/chaos finds each kind of lie, planted one at a time in a story that is true."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from chaos_faults import KINDS, SECONDS, draw
from chaos_history import undone
from chaos_means import judge_states
from chaos_oracle import STANDSTILL, judge, recoveries
from chaos_story import KEY_DIGITS, LostDisk, Sample, Story, Verdict
from chaos_usage import (
    DESCRIPTORS,
    GROWN,
    MEMORY,
    RESTING_DESCRIPTORS,
    RESTING_MEMORY,
    RESTING_THREADS,
    THREADS,
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
    """Three commits and one that restores: ann alone, both, back to the state of the first, both again. Bob
    alone has a checkpoint, and his disk is full when the second is committed."""
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
            if own is not None:
                fate = {"fate": "applied", "tokens": weights[key], "reason": head.hex()}
                lines.append(line("fate", key, index + 0.5, number=own, **fate))
            told = {"index": index, "head": head.hex(), "number": own, "members": len(weights)}
            lines.append(line("committed", key, index + 0.5, **told, **held(str(index), values)))
    lines.append(line("saved", BOB, 1.7, index=1))
    samples = [Sample(name, 1, at, at, 300.0, 9, 30) for at in (0.0, 70.0, 80.0) for name in ("ann", "host")]
    bounds = {
        GROWN: 20.0,
        MEMORY: 400.0,
        THREADS: 12.0,
        DESCRIPTORS: 40.0,
        STANDSTILL: 100.0,
        RESTING_MEMORY: 15.0,
        RESTING_THREADS: 0.0,
        RESTING_DESCRIPTORS: 2.0,
    }
    columns = {key.hex()[:KEY_DIGITS]: column for column, key in enumerate(NAMES)}
    full = [LostDisk(BOB.hex()[:KEY_DIGITS], 2.0, 3.0)]
    return Story(2, records, lines, samples, bounds, columns, full, [(0.0, 1.0), (75.0, 81.0)])


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
    nothing = dict.fromkeys((GROWN, RESTING_MEMORY, RESTING_THREADS, RESTING_DESCRIPTORS), 0.0)
    assert verdict.most == {**nothing, MEMORY: 300.0, THREADS: 9.0, DESCRIPTORS: 30.0, STANDSTILL: 75.5}
    assert verdict.unheard == 0


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


def second_history(of: Story) -> None:
    """Bob took part in another commit 4 than the journal has, and held the same state after it."""
    for each in (told(of, "committed", BOB, 2), told(of, "fate", BOB, 1)):
        each.update({name: "ab" * 32 for name in ("head", "reason") if name in each})


def second_journal(of: Story) -> None:
    """The journal has two commits 4."""
    of.records = [*of.records, replace(of.records[3], serial=9)]


def back_to_nowhere(of: Story) -> None:
    """The restoring record names a state that there never was."""
    renamed(of, 2, replace(of.records[2], result=bytes(32)))


def without_states(of: Story, index: int) -> None:
    """Nobody told of the state after this commit."""
    for each in of.lines:
        if each.get("index") == index and "state" in each:
            assert isinstance(each, dict)
            del each["state"]


def wrong_and_nobody_looked(of: Story) -> None:
    """The first record has another weight, and only the state after the next one was seen."""
    another_weight(of)
    without_states(of, 1)


def a_life_begins_with_a_state(of: Story) -> None:
    """Ann is told of commit 2 again by a life of hers that has another state."""
    of.lines = [*of.lines, {**told(of, "committed", ANN, 1), "event": "active", "life": 2, "state": "other"}]


def a_fate_that_is_missing(of: Story) -> None:
    of.lines = [each for each in of.lines if each is not told(of, "fate", ANN, 1)]


def long_without_a_commit(of: Story) -> None:
    for key in NAMES:
        told(of, "committed", key, 2).update(at=110.0)


def no_commit_in_the_end(of: Story) -> None:
    sampled(of, at=120.0)


def in_a_record_twice(of: Story) -> None:
    """A later life of ann's counts what an earlier one gave."""
    again = [told(of, "fate", ANN, 1), told(of, "committed", ANN, 1)]
    of.lines = [*of.lines, *({**each, "life": 2} for each in again)]


def saved_by_ann(of: Story) -> None:
    of.lines = [*of.lines, line("saved", ANN, 1.6, index=1)]


LIES: dict[str, tuple[str, Callable[[Story], None]]] = {
    "a record without the one before": ("S2", lambda of: setattr(of, "records", of.records[1:])),
    "a gap in the chain": ("S2", lambda of: setattr(of, "records", [*of.records[:1], *of.records[2:]])),
    "no first record": ("S2: the journal begins", lambda of: setattr(of, "records", of.records[1:])),
    "no last record": ("S2", lambda of: setattr(of, "records", of.records[:-1])),
    "two histories": ("S2: there are two commits 4", second_history),
    "two histories in the journal": ("S2", second_journal),
    "back to a state that never was": ("S2", back_to_nowhere),
    "another index": ("S2: 6262", lambda of: told(of, "committed", BOB).update(index=99)),
    "a round that was lost for nothing": ("DU3", lambda of: setattr(of, "lost_disks", ())),
    "a round that another disk has": ("DU3", saved_by_ann),
    "a state of its own": ("S1", lambda of: told(of, "committed", BOB).update(state="other")),
    "another state when it comes back": ("S1", a_life_begins_with_a_state),
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
    "another weight that nobody saw at once": ("S3: commit 1 to 2", wrong_and_nobody_looked),
    "no state to begin with": ("S3: nobody told", lambda of: without_states(of, 0)),
    "somebody who never lived": ("S3", lambda of: of.column_of.popitem()),
    "a number that is none": ("S3", lambda of: told(of, "committed", ANN)["values"].__setitem__(0, math.nan)),
    "in a record that lists others": ("S3", stranger_in_a_record),
    "two fates": ("S4", lambda of: setattr(of, "lines", [*of.lines, told(of, "fate", ANN, 1)])),
    "in a record twice": ("S3", in_a_record_twice),
    "no fate": ("S4: contribution 2", a_fate_that_is_missing),
    "applied by no record": ("S4", lambda of: told(of, "fate", ANN).update(reason="00" * 32)),
    "applied with other tokens": ("S4", lambda of: told(of, "fate", ANN).update(tokens=6)),
    "memory that grows": ("R1", lambda of: sampled(of, mib=330.0)),
    "too much memory": ("R1", lambda of: sampled(of, mib=401.0)),
    "too many threads": ("R3", lambda of: sampled(of, threads=13)),
    "a thread that stays": (RESTING_THREADS, lambda of: sampled(of, threads=10)),
    "descriptors that stay": (RESTING_DESCRIPTORS, lambda of: sampled(of, descriptors=33)),
    "memory that stays": (RESTING_MEMORY, lambda of: sampled(of, mib=316.0)),
    "no commit for long": ("L1", long_without_a_commit),
    "no commit any more": ("L1", no_commit_in_the_end),
    "too many descriptors": ("R3", lambda of: sampled(of, descriptors=41)),
}


def sampled(of: Story, **fields: Any) -> None:
    of.samples = [*of.samples[:-1], replace(of.samples[-1], **fields)]


def test_who_dials_more_peers_than_before_leaks_nothing() -> None:
    dialling = story()
    sampled(dialling, descriptors=36, eventfds=6)
    assert judge(dialling).broken == []


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


def test_what_nobody_saw_at_once_is_recomputed_with_what_followed() -> None:
    of = story()
    without_states(of, 1)
    verdict = Verdict()
    assert list(judge_states(of, verdict)) == []
    assert (verdict.means, verdict.unheard) == (3, 0)
    without_states(of, 4)
    assert list(judge_states(of, verdict)) == []
    assert (verdict.means, verdict.unheard) == (2, 1)


def test_what_a_restoring_record_gives_up_is_all_behind_its_state() -> None:
    records = story().records
    assert [(record.index, gone.index) for record, gone in undone(records)] == [(3, 2)]
    again = record(records[-1].hash(), 5, {}, records[0].hash())
    assert [gone.index for _, gone in undone([*records, again])] == [2, 4, 3]


def test_a_file_that_is_open_for_a_moment_at_rest_is_no_leak() -> None:
    of = story()
    of.samples = [*of.samples, Sample("ann", 1, 80.5, 80.5, 300.0, 12, 38)]
    assert judge(of).broken == []
    assert judge(replace(of, rests=[(0.0, 1.0), (80.2, 81.0)])).broken != []


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
