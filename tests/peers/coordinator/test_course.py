"""A course: what belongs to one chain, apart from what belongs to another."""

from __future__ import annotations

from peers.coordinator.chain import Chain
from peers.coordinator.course import CommitSummary, Course
from peers.coordinator.open_round import OpenRound
from peers.protocol.messages import Committed, Done, MemberIs, Open, Ready
from peers.protocol.record import Record
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key
from transport.frames import unpack


def test_a_round_is_found_by_its_serial_whatever_its_fragment() -> None:
    course = Course(0, Chain(8))
    course.rounds[3] = OpenRound(7, 3, b"", 1, (), (), 0.0)
    assert course.round_of(7) is course.rounds[3]
    assert course.round_of(3) is None


def test_of_commits_the_last_few_are_shown() -> None:
    course = Course(0, Chain(8))
    for index in range(100):
        course.recent.append(CommitSummary(index, 2, 0.5))
    assert [each.fragment for each in course.recent] == list(range(68, 100))


def test_rounds_of_two_courses_open_and_commit_apart() -> None:
    swarm = Swarm(stages=2)
    other = swarm.core.state.courses[1]
    for index, stage in ((1, 0), (2, 0), (3, 1), (4, 1)):
        swarm.join_stage(index, stage, elements=(100 + stage,))
    swarm.hold(1)
    swarm.hold(2)
    there, here = b"1" * 32, swarm.chain.head
    swarm.hold(3, there)
    swarm.hold(4, there)
    assert (swarm.chain.head, other.chain.head) == (here, there) == (ROOT, b"1" * 32)
    assert swarm.core.state.courses[0].manifest != other.manifest
    swarm.ready(1)
    for index in (3, 4):
        swarm.hear(index, Ready(0, there, 8, 8, 1, 1.0))
    (opened,) = swarm.told(3, Open)
    assert (opened.course, opened.founders, swarm.told(1, Open)) == (1, (key(3), key(4)), [])
    for index in (3, 4):
        swarm.hear(index, Done(opened.serial, 0, RESULT))
    record = unpack(swarm.told(4, Committed)[0].record)
    assert isinstance(record, Record)
    assert (record.course, record.parent, other.chain.head) == (1, there, record.hash())
    assert (swarm.chain.head, swarm.told(1, Committed)) == (ROOT, [])
    assert {told.key for told in swarm.told(1, MemberIs)} == {key(2)}
    swarm.ready(2)
    assert swarm.told(1, Open)[0].course == 0, "its offers stood"
