"""Accusations without proof: a word is not believed, and not ignored."""

from __future__ import annotations

from peers.coordinator import accusations
from peers.coordinator.status import MarkStatus
from peers.protocol.messages import Abort, Committed, Done, Open, Stuck
from peers.protocol.traces import PoisonedTrace, SetAsideTrace
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, opened, trained


def set_aside(swarm: Swarm) -> list[bytes]:
    return [trace.peer for trace in swarm.traces if isinstance(trace, SetAsideTrace)]


def accuse(swarm: Swarm, accuser: int, *accused: int, attempt: int | None = None) -> None:
    last = swarm.told(accuser, Open)[-1]
    at = last.attempt if attempt is None else attempt
    swarm.hear(accuser, Stuck(last.serial, at, tuple(map(key, accused)), "a value is not finite"))


def finish(swarm: Swarm, *members: int) -> None:
    for index in members:
        last = swarm.told(index, Open)[-1]
        swarm.hear(index, Done(last.serial, last.attempt, RESULT))


def test_one_accusation_sets_nobody_aside_and_repeats_the_attempt_without_their_chunks() -> None:
    swarm = trained(4)
    serial = opened(swarm, 1, 2, 3, 4).serial
    accuse(swarm, 1, 3)
    again = swarm.told(2, Open)[-1]
    assert (again.serial, again.attempt, again.lost) == (serial, 1, ())
    assert (again.idle, again.proved) == ((0, 2), True)
    assert set_aside(swarm) == []
    assert swarm.core.status(0.0).marks == (MarkStatus("w1", "w3", 2),)
    finish(swarm, 1, 2, 3, 4)
    assert swarm.told(1, Committed)


def test_an_honest_round_has_no_idle_member_and_proves_nothing() -> None:
    first = opened(trained(4), 1, 2, 3, 4)
    assert (first.idle, first.proved) == ((), False)


def test_marks_last_over_rounds_and_end() -> None:
    swarm = trained(4)
    opened(swarm, 1, 2, 3, 4)
    accuse(swarm, 1, 3)
    idle = []
    for _ in range(4):
        finish(swarm, 1, 2, 3, 4)
        idle.append(opened(swarm, 1, 2, 3, 4).idle)
    assert idle == [(0, 2), (), (), ()]


def test_a_liar_that_accuses_one_after_another_is_soon_at_odds_with_most_and_sits_out() -> None:
    swarm = trained(5)
    serial = opened(swarm, 1, 2, 3, 4, 5).serial
    accuse(swarm, 1, 2)
    accuse(swarm, 1, 3)
    assert set_aside(swarm) == []
    accuse(swarm, 1, 4)
    assert set_aside(swarm) == [key(1)]
    assert swarm.told(1, Abort)[-1].serial == serial
    finish(swarm, 2, 3, 4, 5)
    assert swarm.told(2, Committed)


def test_all_at_once_is_the_same() -> None:
    swarm = trained(5)
    opened(swarm, 1, 2, 3, 4, 5)
    accuse(swarm, 1, 2, 3, 4, 5)
    assert set_aside(swarm) == [key(1)]


def test_whom_more_than_half_accuse_is_set_aside_also_for_what_they_found_an_attempt_ago() -> None:
    swarm = trained(5)
    opened(swarm, 1, 2, 3, 4, 5)
    for accuser in (1, 2, 3):
        assert set_aside(swarm) == []
        accuse(swarm, accuser, 5, attempt=0)
    assert set_aside(swarm) == [key(5)]
    finish(swarm, 1, 2, 3, 4)
    assert swarm.told(1, Committed)


def test_the_same_word_about_an_earlier_attempt_counts_once() -> None:
    swarm = trained(5)
    opened(swarm, 1, 2, 3, 4, 5)
    for _ in range(5):
        accuse(swarm, 1, 5, attempt=0)
    assert swarm.told(2, Open)[-1].attempt == 1
    assert swarm.core.status(0.0).marks == (MarkStatus("w1", "w5", 2),)


def test_who_is_accused_again_stays_where_two_others_are_left_to_own_chunks() -> None:
    swarm = trained(5)
    opened(swarm, 1, 2, 3, 4, 5)
    accuse(swarm, 1, 5)
    for _ in range(3):
        finish(swarm, 1, 2, 3, 4, 5)
        assert opened(swarm, 1, 2, 3, 4, 5)
    accuse(swarm, 1, 5)
    assert swarm.told(2, Open)[-1].idle == (0, 4), "for longer than the first time, and that is all"
    assert set_aside(swarm) == []


def test_where_nobody_is_left_to_own_chunks_the_round_is_given_up_and_opens_again_after_a_wait() -> None:
    swarm = trained(3, min_peers=3)
    opened(swarm, 1, 2, 3)
    accuse(swarm, 1, 3)
    assert swarm.told(2, Abort)[-1].again
    assert set_aside(swarm) == []
    num_opens = len(swarm.told(2, Open))
    for index in (1, 2, 3):
        swarm.ready(index)
    swarm.later(1.9)
    assert len(swarm.told(2, Open)) == num_opens
    swarm.later(0.2)
    again = swarm.told(2, Open)[-1]
    assert (again.attempt, again.idle, again.proved) == (0, (), True)
    accuse(swarm, 1, 3)
    assert "again in 4 s" in swarm.told(2, Abort)[-1].reason


def rounds_of_three(swarm: Swarm) -> None:
    for index in (1, 2, 3):
        swarm.ready(index)
    swarm.later(3.0)


def test_a_liar_of_three_members_makes_the_others_wait_once_and_then_sits_out() -> None:
    swarm = trained(3)
    opened(swarm, 1, 2, 3)
    accuse(swarm, 1, 3)
    assert set_aside(swarm) == []
    rounds_of_three(swarm)
    accuse(swarm, 1, 3)
    assert set_aside(swarm) == [key(1)]
    finish(swarm, 2, 3)
    assert swarm.told(2, Committed)


def test_of_a_pair_whoever_is_at_odds_with_more_sits_out_though_the_other_accuses() -> None:
    swarm = trained(4)
    opened(swarm, 1, 2, 3, 4)
    accuse(swarm, 2, 1)
    accuse(swarm, 3, 1, attempt=0)
    for index in (1, 2, 3, 4):
        swarm.ready(index)
    swarm.later(3.0)
    accuse(swarm, 2, 1)
    assert set_aside(swarm) == [key(1)]


def test_a_host_that_waits_wakes_at_the_end_of_the_wait_and_not_before() -> None:
    swarm = trained(3, grace_s=0.5)
    opened(swarm, 1, 2, 3)
    swarm.later(1.0)
    accuse(swarm, 1, 3)
    swarm.ready(1)
    swarm.ready(2)
    swarm.later(0.6)
    assert swarm.core.deadline() == 3.0, "the grace is over, and the wait is not"
    num_opens = len(swarm.told(2, Open))
    swarm.later(1.4)
    assert len(swarm.told(2, Open)) == num_opens + 1
    assert swarm.core.deadline() > swarm.now


def test_whoever_accuses_one_of_whom_it_got_nothing_sits_out_itself() -> None:
    swarm = trained(5)
    opened(swarm, 1, 2, 3, 4, 5)
    accuse(swarm, 1, 3)
    accuse(swarm, 1, 3)
    assert set_aside(swarm) == [key(1)]


def test_whoever_refuses_its_own_contribution_sits_out() -> None:
    swarm = trained(3)
    opened(swarm, 1, 2, 3)
    accuse(swarm, 2, 2)
    assert set_aside(swarm) == [key(2)]


def test_silence_is_no_suspicion() -> None:
    swarm = trained(4, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3, 4).serial
    swarm.hear(2, Stuck(serial, 0, (key(4),), ""))
    swarm.later(1.0)
    again = swarm.told(1, Open)[-1]
    assert (again.attempt, again.idle, again.proved) == (1, (1, 3), False), "these two are kept apart"
    assert swarm.core.status(0.0).marks == ()


def test_who_accuses_whom_is_traced() -> None:
    swarm = trained(4)
    opened(swarm, 1, 2, 3, 4)
    accuse(swarm, 1, 3)
    told = [trace for trace in swarm.traces if isinstance(trace, PoisonedTrace)]
    assert told == [PoisonedTrace(key(1), (key(3),), "a value is not finite")]


def test_strangers_to_the_round_and_earlier_attempts_of_silence_count_nothing() -> None:
    swarm = trained(4, grace_s=0.0)
    serial = opened(swarm, 1, 2, 3, 4).serial
    course = swarm.core.state.courses[0]
    accuser = swarm.core.roster.entries[key(1)]
    stranger = Stuck(serial, 0, (key(9),), "a value is not finite")
    accusations.hear(swarm.core.state, course, 0.0, course.rounds[0], accuser, stranger)
    assert swarm.told(2, Open)[-1].attempt == 0
    swarm.hear(1, Stuck(serial, 7, (key(3),), "a value is not finite"))
    assert swarm.told(2, Open)[-1].attempt == 0
