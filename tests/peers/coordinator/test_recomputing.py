"""Recomputation: the host's own worker says which state is right, however many hold another one."""

from __future__ import annotations

from peers.coordinator import recomputing
from peers.coordinator.chain import Chain
from peers.coordinator.course import Course, Recomputation
from peers.protocol.messages import (
    Applied,
    CatchUp,
    CaughtUp,
    Committed,
    Done,
    Open,
    Recompute,
    Recomputed,
)
from peers.protocol.record import Record, record_in
from peers.protocol.traces import DisputedTrace, ParityTrace, RecomputedTrace
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained

OWN = 255
FIRST, RIGHT, WRONG, OTHER = b"d" * 32, b"r" * 32, b"w" * 32, b"o" * 32
TIMEOUT_S = 10.0


def committed(*indexes: int) -> tuple[Swarm, Record]:
    """The host's own worker and some others have all done a round, and nobody told its state yet."""
    swarm = trained(len(indexes), failure_timeout_s=TIMEOUT_S)
    swarm.enter(OWN)
    swarm.hold(OWN)
    members = [*indexes, OWN]
    found = opened(swarm, *members)
    for index in members:
        swarm.hear(index, Done(found.serial, 0, RESULT))
    (message,) = swarm.told(OWN, Committed)
    return swarm, record_in(message.record)


def applied(swarm: Swarm, record: Record, **states: bytes) -> None:
    for name, state in states.items():
        index = OWN if name == "own" else int(name[1:])
        swarm.hear(index, Applied(0, record.hash(), state))
        swarm.hear(index, CaughtUp(record.hash()))


def repaired(swarm: Swarm) -> list[bytes]:
    return [trace.peer for trace in swarm.traces if isinstance(trace, ParityTrace)]


def test_the_hosts_own_worker_is_asked_once_and_for_the_step_in_dispute() -> None:
    swarm, record = committed(1, 2)
    applied(swarm, record, w1=RIGHT, w2=RIGHT)
    assert swarm.told(OWN, Recompute) == []
    applied(swarm, record, own=WRONG)
    applied(swarm, record, w1=RIGHT)
    (asked,) = swarm.told(OWN, Recompute)
    assert (record_in(asked.record), asked.former) == (record, FIRST)
    assert [peer for peer, message in swarm.said if isinstance(message, Recompute)] == [key(OWN)]


def test_nobody_is_overwritten_and_no_round_opens_before_the_answer() -> None:
    swarm, record = committed(1, 2)
    applied(swarm, record, w1=RIGHT, own=WRONG, w2=WRONG)
    for index in (1, 2, OWN):
        swarm.ready(index)
    swarm.later(TIMEOUT_S / 2)
    assert repaired(swarm) == []
    assert [message for message in swarm.told(1, Open) if message.base == record.hash()] == []
    assert not [trace for trace in swarm.traces if isinstance(trace, DisputedTrace)]


def test_one_that_holds_what_was_computed_stands_against_any_number() -> None:
    swarm, record = committed(1, 2, 3)
    applied(swarm, record, own=RIGHT, w1=WRONG, w2=WRONG, w3=WRONG)
    swarm.hear(OWN, Recomputed(0, record.hash(), True, RIGHT))
    assert sorted(repaired(swarm)) == sorted(map(key, (1, 2, 3)))
    assert [trace.found for trace in swarm.traces if isinstance(trace, RecomputedTrace)] == [True]
    for index in (1, 2, 3):
        assert swarm.told(index, CatchUp)[-1].state == RIGHT
        assert swarm.told(index, CatchUp)[-1].donors == (key(OWN),)


def test_in_a_tie_the_host_goes_on_with_who_is_right_be_it_against_its_own_worker() -> None:
    swarm, record = committed(1)
    applied(swarm, record, w1=RIGHT, own=WRONG)
    swarm.hear(OWN, Recomputed(0, record.hash(), True, RIGHT))
    assert repaired(swarm) == [key(OWN)]
    applied(swarm, record, own=RIGHT)
    for index in (1, OWN):
        swarm.ready(index)
    assert swarm.told(1, Open)[-1].base == record.hash()


def test_most_decide_if_nobody_holds_what_was_computed_or_it_cannot_be() -> None:
    for found, state in ((True, OTHER), (False, bytes(32))):
        swarm, record = committed(1, 2)
        applied(swarm, record, own=RIGHT, w1=RIGHT, w2=WRONG)
        swarm.hear(OWN, Recomputed(0, record.hash(), found, state))
        assert repaired(swarm) == [key(2)]


def test_most_decide_once_the_answer_is_late() -> None:
    swarm, record = committed(1, 2)
    applied(swarm, record, own=RIGHT, w1=RIGHT, w2=WRONG)
    swarm.later(TIMEOUT_S - 1.0)
    assert repaired(swarm) == []
    swarm.later(1.0)
    assert repaired(swarm) == [key(2)]
    swarm.hear(OWN, Recomputed(0, record.hash(), True, WRONG))
    assert repaired(swarm) == [key(2)], "what comes too late changes nothing"


def test_the_answer_of_anybody_else_or_about_another_version_counts_for_nothing() -> None:
    swarm, record = committed(1)
    applied(swarm, record, w1=WRONG, own=RIGHT)
    swarm.hear(1, Recomputed(0, record.hash(), True, WRONG))
    swarm.hear(OWN, Recomputed(0, ROOT, True, WRONG))
    assert repaired(swarm) == []


def test_without_a_worker_of_the_hosts_most_decide_at_once() -> None:
    swarm = trained(3)
    found = opened(swarm, 1, 2, 3)
    for index in (1, 2, 3):
        swarm.hear(index, Done(found.serial, 0, RESULT))
    record = record_in(swarm.told(1, Committed)[0].record)
    applied(swarm, record, w1=RIGHT, w2=RIGHT, w3=WRONG)
    assert repaired(swarm) == [key(3)]


def test_what_is_overdue_is_decided_once_without_the_answer() -> None:
    course = Course(0, Chain(4))
    course.recomputations[0] = Recomputation(ROOT, 5.0)
    assert recomputing.overdue(course, 4.9) == []
    assert recomputing.overdue(course, 5.0) == [0]
    assert recomputing.overdue(course, 9.0) == [], "each is told once"
