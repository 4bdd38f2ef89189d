"""What a coordinator's parts share: serials, decisions that are journaled before they are said, the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from peers.coordinator.course import Course
from peers.coordinator.journal import (
    CommitWritten,
    ModelAgreed,
    PeerCertified,
    PeerKicked,
    PlaceGivenBack,
    RunBegan,
    StageGiven,
    StateSaved,
    StepsTaken,
    TermBegan,
)
from peers.coordinator.outlet import Outlet
from peers.coordinator.roster import Roster
from peers.coordinator.rounds_mode import RoundsMode
from peers.coordinator.rules import Rules
from peers.coordinator.state import RunState
from peers.errors import BadEntry
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Committed, Ready
from peers.protocol.record import GENESIS, Record
from tests.peers.coordinator.coordinator_kit import ROOT, key, opened, trained
from tests.peers.coordinator.test_roster import entering
from transport.effects import Trace
from transport.frames import unpack
from transport.limits import LIMITS

OTHER = b"1" * 32
FIRST = Record(ROOT, 1, 0, 1, 1, 1, (b"m" * 32,), (1.0,), b"r" * 32)
MODEL = Manifest(b"s" * 32, b"t" * 32, b"h" * 32, "int8", (5,), "a model of 5")


class Told(Outlet):
    """What is stored and said, in one order."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def store(self, entry: bytes) -> None:
        self.all.append(unpack(entry))

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self.all.append((peer, message))

    def forget(self, peer: bytes, reason: str) -> None: ...

    def trace(self, trace: Trace) -> None: ...

    def last_heard(self, now: float, peer: bytes) -> float:
        return now


def run_state(rounds: int = 5, stages: int = 1) -> tuple[RunState, Told]:
    told, roster, rules = Told(), Roster(), Rules(b"s" * 32, rounds=rounds, stages=stages)
    return RunState(key(255), rules, LIMITS, told, roster, RoundsMode(rules, LIMITS, told, roster)), told


def record_on(course: Course, fragment: int = 0) -> Record:
    chain = course.chain
    members = ((), ()) if fragment == ALL_FRAGMENTS else ((b"m" * 32,), (1.0,))
    return Record(chain.head, chain.index + 1, fragment, 1, 1, 1, *members, b"r" * 32, course=course.number)


def test_serials_and_epochs_of_a_later_life_are_higher_than_all_before() -> None:
    before, told = run_state()
    before.begin_term()
    serials = [before.next_serial() for _ in range(3)]
    after, _ = run_state()
    after.restore(told.all)
    after.begin_term()
    assert sorted({*serials, after.next_serial()})[:3] == serials
    assert after.roster.epoch > before.roster.epoch + 1000


def test_a_journal_is_replayed_in_order_each_record_into_its_course() -> None:
    state, _ = run_state(stages=3)
    state.courses[2].begin(OTHER)
    two = record_on(state.courses[2])
    state, _ = run_state(stages=3)
    known, given = PeerCertified(key(1), "w"), StageGiven(key(1), 2)
    saved = StateSaved(key(1), 0, OTHER, b"s" * 32, True, 2)
    beginnings = [ModelAgreed.of(MODEL, 1), RunBegan(ROOT), RunBegan(OTHER, 2), saved, StepsTaken(4, 1)]
    state.restore([TermBegan(3), known, given, *beginnings, CommitWritten.of(two)])
    assert (state.term, state.roster.entries[key(1)].name) == (3, "w")
    assert state.roster.entries[key(1)].given_stage == 2
    courses = list(state.courses.values())
    assert [course.chain.head for course in courses] == [ROOT, GENESIS, two.hash()]
    assert [course.manifest for course in courses] == [None, MODEL, None]
    assert [course.num_steps for course in courses] == [0, 4, 0]
    assert [set(course.saves.by_member) for course in courses] == [set(), set(), {key(1)}]


def test_a_record_is_journaled_and_then_said_to_the_members_of_its_course() -> None:
    state, told = run_state(stages=2)
    other = state.courses[1]
    for index, stage in ((1, 0), (2, 1)):
        entry = state.roster.certify(key(index), "w")
        state.roster.enter(0.0, entry, entering(stage), stage)
    record = record_on(other)
    assert state.commit(1.0, other, record) == other.chain.head == record.hash()
    stored, (peer, message) = told.all
    assert stored.commit() == record
    assert (peer, type(message)) == (key(2), Committed)


def test_a_record_voids_offers_of_what_it_moved_and_a_restoring_one_all() -> None:
    state, _ = run_state()
    course, entry = state.courses[0], state.roster.certify(key(1), "w")
    state.roster.enter(0.0, entry, entering(), 0)
    entry.ready.update({fragment: Ready(fragment, ROOT, 1, 1, 1, 1.0) for fragment in (0, 1, 2)})
    state.commit(1.0, course, record_on(course, 1))
    assert set(entry.ready) == {0, 2}
    state.commit(1.0, course, record_on(course, ALL_FRAGMENTS))
    assert not entry.ready


def test_a_run_is_finished_when_every_course_has_its_rounds() -> None:
    state, _ = run_state(rounds=1, stages=2)
    for course in state.courses.values():
        assert not state.finished
        state.commit(0.0, course, record_on(course))
    assert (state.finished, state.num_rounds) == (True, 1)


def test_a_round_that_is_given_up_is_open_no_more_and_its_members_may_offer_again() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    state = swarm.core.state
    course = state.courses[0]
    current = course.round_of(serial)
    assert current is not None
    swarm.said.clear()
    state.abort(0.0, course, current, "enough")
    assert not course.rounds
    assert [(peer, said.serial, said.again) for peer, said in swarm.said] == [
        (key(1), serial, True),
        (key(2), serial, True),
    ]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([PeerKicked(key(1))], "never let in"),
        ([PlaceGivenBack(key(1))], "never let in"),
        ([RunBegan(ROOT), CommitWritten.of(FIRST), RunBegan(ROOT)], "there are commits already"),
        (
            [RunBegan(ROOT), CommitWritten.of(FIRST), CommitWritten.of(FIRST)],
            "commit 1 does not follow commit 1",
        ),
        ([RunBegan(key(9)), CommitWritten.of(FIRST)], "commit 1 does not follow commit 0"),
        ([RunBegan(ROOT), CommitWritten.of(replace(FIRST, course=3))], "course 3"),
        ([RunBegan(ROOT, 3)], "course 3"),
        ([ModelAgreed.of(MODEL, 3)], "course 3"),
        ([StepsTaken(1, 3)], "course 3"),
        ([PeerCertified(key(1), "w"), StateSaved(key(1), 0, ROOT, ROOT, True, 3)], "course 3"),
        ([PeerCertified(key(1), "w"), StageGiven(key(1), 3)], "course 3"),
        ([StageGiven(key(1), 0)], "never let in"),
        (
            [ModelAgreed.of(MODEL), RunBegan(ROOT), CommitWritten.of(replace(FIRST, fragment=1))],
            "fragment 1 of 1",
        ),
    ],
)
def test_an_entry_that_does_not_follow_from_those_before_is_named(entries: list[Any], reason: str) -> None:
    state, _ = run_state()
    with pytest.raises(BadEntry, match=reason) as raised:
        state.restore([TermBegan(1), *entries])
    assert raised.value.number == 1 + len(entries)
    assert raised.value.reason in str(raised.value)
    assert str(raised.value).startswith(f"entry {1 + len(entries)} of the journal cannot be used: ")
