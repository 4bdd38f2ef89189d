"""Members that share one state: who hears of whom, whose bits differ, and who is told of the end."""

from __future__ import annotations

from typing import Any

from peers.coordinator.exchange_mode import ExchangeMode
from peers.coordinator.open_round import OpenRound
from peers.coordinator.rounds_mode import RoundsMode
from peers.protocol.messages import Done, Finished, Leave, MemberGone, MemberIs
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained


def finished_run(num_members: int, **rules: Any) -> tuple[Swarm, bytes]:
    """Its only round is committed, and nobody has said yet that it holds the result."""
    swarm = trained(num_members, rounds=1, **rules)
    indexes = range(1, num_members + 1)
    serial = opened(swarm, *indexes).serial
    for index in indexes:
        swarm.hear(index, Done(serial, 0, RESULT))
    return swarm, swarm.chain.head


def test_the_end_of_a_run_is_told_once_all_hold_the_last_result() -> None:
    swarm, head = finished_run(2)
    swarm.hold(1, head)
    assert not swarm.told(1, Finished), "it would leave, and the other has nobody to fetch from"
    assert not swarm.core.over(swarm.now)
    swarm.hold(2, head)
    assert [len(swarm.told(index, Finished)) for index in (1, 2)] == [1, 1]
    assert swarm.core.over(swarm.now)


def test_a_round_that_is_open_when_the_last_one_is_committed_delays_no_end() -> None:
    swarm, head = finished_run(2)
    course = swarm.core.state.courses[0]
    course.rounds[1] = OpenRound(9, 1, head, 4, (key(1), key(2)), (1.0, 1.0), opened_at=0.0)
    for index in (1, 2):
        swarm.hold(index, head)
    assert [len(swarm.told(index, Finished)) for index in (1, 2)] == [1, 1]


def test_a_host_that_died_at_the_end_waits_for_members_to_come_back_and_hear_of_it() -> None:
    before, head = finished_run(1, min_peers=1)
    after = Swarm(before.journal, rounds=1, min_peers=1, failure_timeout_s=2.0)
    assert not after.core.over(3.9)
    after.enter(1, head=head, holds_state=True)
    assert after.told(1, Finished)
    assert after.core.over(4.1)


def test_the_end_waits_for_a_member_that_came_and_has_not_entered_yet() -> None:
    before, head = finished_run(1, min_peers=1)
    after = Swarm(before.journal, rounds=1, min_peers=1, failure_timeout_s=2.0)
    after.core.met(1.0, key(1), 1)
    assert not after.core.over(4.1), "it builds its model, and would wait for a host that is gone"
    assert after.core.status(4.1).waits.startswith("the run is over, and w1 came and will hear so")
    after.core.met(50.0, key(1), 1)
    assert not after.core.over(60.9)
    assert after.core.over(61.1), "to greet again delays no end"
    after.now = 5.0
    after.greet(1, head=head, holds_state=True)
    assert after.told(1, Finished)
    assert after.core.over(5.0)


def test_the_end_waits_for_nobody_who_came_and_is_silent_or_has_left() -> None:
    swarm, head = finished_run(1, min_peers=1, failure_timeout_s=2.0)
    swarm.core.certify(key(2), "w2")
    swarm.core.met(swarm.now, key(1), 1)
    swarm.core.met(swarm.now, key(2), 1)
    swarm.hold(1, head)
    swarm.hear(1, Leave("the end"))
    assert not swarm.core.over(swarm.now)
    swarm.silent[key(2)] = -2.1
    assert swarm.core.over(swarm.now)


def test_the_end_of_a_run_waits_for_nobody_without_bound() -> None:
    swarm, head = finished_run(2, grace_s=3.0, failure_timeout_s=2.0)
    swarm.hold(1, head)
    swarm.later(6.0)
    assert not swarm.told(1, Finished)
    swarm.later(2.0)
    assert swarm.told(1, Finished)
    assert swarm.told(2, Finished)


def test_a_newcomer_to_a_finished_run_is_told_at_once() -> None:
    swarm, _ = finished_run(2)
    swarm.enter(3)
    assert swarm.told(3, Finished)
    assert not swarm.told(1, Finished)


def test_members_that_hold_other_bits_than_most_dissent_at_the_current_version_only() -> None:
    swarm = trained(3)
    mode: ExchangeMode = swarm.core.state.mode
    course, entries = swarm.core.state.courses[0], swarm.core.roster.entered()
    assert isinstance(mode, RoundsMode)
    assert mode.dissenters(course, 0) == []
    entries[1].checks[0] = (ROOT, b"x" * 32)
    assert mode.dissenters(course, 0) == [entries[1]]
    assert mode.differing_fragment(course, entries[1]) == 0
    entries[1].checks[0] = (b"earlier" + bytes(25), b"x" * 32)
    assert (mode.dissenters(course, 0), mode.differing_fragment(course, entries[1])) == ([], None)


def test_members_learn_of_each_other_at_once_and_of_who_leaves() -> None:
    swarm = trained(2)
    assert [told.key for told in swarm.told(1, MemberIs)] == [key(2)]
    assert [told.key for told in swarm.told(2, MemberIs)] == [key(1)]
    swarm.hear(2, Leave("done"))
    assert [told.key for told in swarm.told(1, MemberGone)] == [key(2)]


def test_a_newcomer_fetches_from_all_who_hold_the_agreed_state() -> None:
    swarm = trained(3)
    course = swarm.core.state.courses[0]
    assert swarm.core.state.mode.sources(course) == [(0, b"d" * 32, [key(1), key(2), key(3)])]
    swarm.core.roster.entered()[0].checks[0] = (ROOT, b"x" * 32)
    assert swarm.core.state.mode.sources(course) == [(0, b"d" * 32, [key(2), key(3)])]
