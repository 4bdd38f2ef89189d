"""Rounds: when they open, what they commit, whom they leave out."""

from __future__ import annotations

import math

import pytest

from peers.coordinator import rounds
from peers.protocol.messages import (
    Abort,
    CatchUp,
    CaughtUp,
    Committed,
    Decline,
    Done,
    Leave,
    NeedState,
    Open,
    Ready,
    Rejected,
    Stuck,
    Wanted,
    Withdraw,
)
from peers.protocol.naming import NameState
from peers.protocol.record import Record
from peers.protocol.traces import SetAsideTrace
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained
from transport.frames import pack, unpack


def test_a_round_opens_with_everyone_or_after_the_grace() -> None:
    swarm = trained(3, grace_s=10.0)
    swarm.ready(1)
    swarm.ready(2)
    assert not swarm.told(1, Open)
    swarm.later(9.0)
    assert not swarm.told(1, Open)
    swarm.later(2.0)
    assert swarm.told(1, Open)[0].founders == (key(1), key(2))
    assert not swarm.told(3, Open)


def test_a_round_names_the_contribution_of_each_member_that_is_in_it() -> None:
    swarm = trained(3)
    for index, number in ((2, 7), (1, 5), (3, 11)):
        swarm.hear(index, Ready(0, ROOT, 8, 8, number, 1.0))
    assert swarm.told(1, Open)[-1].numbers == (5, 7, 11)
    swarm.hear(3, Leave("enough"))
    again = swarm.told(1, Open)[-1]
    assert (again.attempt, again.numbers) == (1, (5, 7, 11)), "by founder, also of those who are lost"


def test_with_a_quorum_the_grace_begins_once_the_quorum_is_there() -> None:
    swarm = trained(4, grace_s=10.0, quorum=2)
    swarm.ready(1)
    swarm.later(50.0)
    assert swarm.core.deadline() == math.inf, "one alone waits for nothing but a second"
    swarm.ready(2)
    swarm.later(5.0)
    swarm.ready(3)
    assert not swarm.told(1, Open)
    assert swarm.core.deadline() == 60.0
    swarm.later(5.0)
    assert swarm.told(1, Open)[0].founders == (key(1), key(2), key(3))
    assert swarm.core.deadline() == math.inf


def test_a_quorum_that_is_lost_has_its_grace_anew_when_it_is_there_again() -> None:
    swarm = trained(3, grace_s=10.0, quorum=2)
    swarm.ready(1)
    swarm.ready(2)
    swarm.later(9.0)
    swarm.hear(2, Withdraw(0, 1))
    assert swarm.core.deadline() == math.inf
    swarm.later(9.0)
    swarm.ready(2)
    swarm.later(9.0)
    assert not swarm.told(1, Open)
    swarm.later(1.0)
    assert swarm.told(1, Open)[0].founders == (key(1), key(2))


def test_without_a_quorum_the_grace_begins_with_the_first_who_is_ready() -> None:
    swarm = trained(3, grace_s=10.0)
    swarm.ready(1)
    swarm.later(8.0)
    swarm.ready(2)
    assert swarm.core.deadline() == 10.0
    swarm.later(2.0)
    assert swarm.told(1, Open)[0].founders == (key(1), key(2))


def test_of_a_run_that_is_over_no_grace_is_waited_for() -> None:
    swarm = trained(3, grace_s=10.0, min_peers=1, rounds=1)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2, 3):
        swarm.hear(index, Done(serial, 0, RESULT))
    assert swarm.core.finished
    swarm.ready(1)
    assert swarm.core.deadline() == math.inf


def test_fewer_than_the_minimum_never_open_a_round() -> None:
    swarm = trained(1, min_peers=2)
    swarm.ready(1)
    swarm.later(1000.0)
    assert not swarm.told(1, Open)


def test_weights_are_tokens_and_nothing_trained_is_no_offer() -> None:
    swarm = trained(3, grace_s=1.0)
    swarm.ready(1, tokens=30)
    swarm.ready(2, tokens=10)
    swarm.ready(3, tokens=0)
    swarm.later(2.0)
    assert swarm.told(1, Open)[0].weights == (30.0, 10.0)


def test_a_contribution_may_weigh_something_and_have_its_tokens_counted_later() -> None:
    swarm = trained(2, grace_s=1.0)
    for index in (1, 2):
        swarm.hear(index, Ready(0, swarm.chain.head, 0, 8, 1, 1.0))
    assert swarm.told(1, Open)[0].weights == (8.0, 8.0)


def test_it_commits_only_what_every_live_member_holds_and_journals_it_first() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    assert not swarm.told(1, Committed)
    stored = len(swarm.journal)
    swarm.hear(2, Done(serial, 0, RESULT))
    assert len(swarm.journal) == stored + 1
    record = unpack(swarm.told(1, Committed)[0].record)
    assert isinstance(record, Record)
    assert (record.parent, record.members, record.result) == (ROOT, (key(1), key(2)), RESULT)


def test_a_member_that_goes_silent_is_left_out_and_the_others_go_on() -> None:
    swarm = trained(3, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    swarm.silent[key(3)] = 0.0
    swarm.later(2.7)
    again = swarm.told(1, Open)[-1]
    assert (again.serial, again.attempt, again.lost) == (serial, 1, (2,))
    swarm.hear(1, Done(serial, 0, RESULT))  # of the attempt before: void
    swarm.hear(2, Done(serial, 1, RESULT))
    assert not swarm.told(1, Committed)
    swarm.hear(1, Done(serial, 1, RESULT))
    record = unpack(swarm.told(1, Committed)[0].record)
    assert record.members == (key(1), key(2))


def test_a_result_that_all_survivors_hold_stands_with_the_one_that_left() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    swarm.hear(3, Leave("done"))
    record = unpack(swarm.told(1, Committed)[0].record)
    assert record.members == (key(1), key(2), key(3))


def test_below_the_minimum_a_round_is_given_up_and_offers_stand() -> None:
    swarm = trained(2)
    opened(swarm, 1, 2)
    swarm.hear(2, Leave("done"))
    assert swarm.told(1, Abort)[0].again


def test_where_results_differ_the_attempt_is_repeated_proved_and_nobody_is_set_aside() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index, digest in ((1, RESULT), (2, b"x" * 32), (3, RESULT)):
        swarm.hear(index, Done(serial, 0, digest))
    again = swarm.told(2, Open)[-1]
    assert (again.attempt, again.lost, again.proved) == (1, (), True)
    assert [trace.peer for trace in swarm.traces if isinstance(trace, SetAsideTrace)] == []


def test_whoever_differs_from_most_again_and_shows_nothing_is_set_aside() -> None:
    swarm = trained(3, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3).serial
    for attempt in (0, 1):
        for index, digest in ((1, RESULT), (2, b"x" * 32), (3, RESULT)):
            swarm.hear(index, Done(serial, attempt, digest))
    assert not swarm.told(1, Committed)
    swarm.later(2.1)
    assert [trace.peer for trace in swarm.traces if isinstance(trace, SetAsideTrace)] == [key(2)]
    record = unpack(swarm.told(2, Committed)[0].record)
    assert (record.result, key(2) in record.members) == (RESULT, True), "what it contributed is added up"
    assert not swarm.told(2, Abort), "a contribution that a record counts is not late"


def test_who_is_set_aside_while_the_others_go_on_is_told_so() -> None:
    swarm = trained(5)
    serial = opened(swarm, 1, 2, 3, 4, 5).serial
    for index in (1, 2, 4):
        swarm.hear(index, Stuck(serial, 0, (key(3),), "not finite"))
    assert swarm.told(2, Open)[-1].lost == (2,)
    assert [(said.serial, said.again) for said in swarm.told(3, Abort)] == [(serial, False)]
    for index in (1, 2, 4, 5):
        swarm.hear(index, Done(serial, swarm.told(index, Open)[-1].attempt, RESULT))
    assert key(3) not in unpack(swarm.told(3, Committed)[0].record).members


@pytest.mark.parametrize("how", ["it cannot follow", "its state differs"])
@pytest.mark.parametrize("others_are_done", [True, False])
def test_before_a_member_gets_the_state_anew_it_is_decided_what_becomes_of_its_rounds(
    how: str, others_are_done: bool
) -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2) if others_are_done else ():
        swarm.hear(index, Done(serial, 0, RESULT))
    since = len(swarm.said)
    if how == "it cannot follow":
        swarm.hear(3, NeedState("it lacks a result"))
    else:
        swarm.applied(3, ROOT, b"x" * 32)
    said = [type(message) for peer, message in swarm.said[since:] if peer == key(3)]
    first = next(each for each in said if each is not NameState)
    assert first is (Committed if others_are_done else Abort)
    assert (CatchUp in said) is not others_are_done, "of what was committed just now nobody is a donor yet"
    if others_are_done:
        assert key(3) in unpack(swarm.told(3, Committed)[0].record).members
    else:
        assert not swarm.told(3, Abort)[0].again
        assert swarm.told(1, Open)[-1].lost == (2,)


def test_a_split_without_a_majority_is_done_again_by_all() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    swarm.hear(2, Done(serial, 0, b"x" * 32))
    again = swarm.told(1, Open)[-1]
    assert (again.attempt, again.lost) == (1, ())
    assert not swarm.told(1, Committed)


def test_a_split_that_attempts_do_not_heal_is_given_up_and_offers_stand() -> None:
    swarm = trained(2, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2).serial
    for attempt in range(rounds.MAX_SPLIT_ATTEMPTS + 1):
        assert not swarm.told(1, Abort)
        swarm.hear(1, Done(serial, attempt, RESULT))
        swarm.hear(2, Done(serial, attempt, b"x" * 32))
        swarm.later(2.1)
    assert swarm.told(1, Abort)[0].again
    assert not swarm.core.state.courses[0].rounds


def test_who_was_set_aside_is_not_waited_for_until_some_commits_have_passed() -> None:
    swarm = trained(4, grace_s=100.0)
    entry = swarm.core.roster.entries[key(4)]
    swarm.ready(4, norm=1e6)
    serial = opened(swarm, 1, 2, 3).serial
    assert entry.sits_out_until == swarm.chain.index + 1, "an outlier, so the others did not wait"
    for index in (1, 2, 3):
        swarm.hear(index, Done(serial, 0, RESULT))
    assert swarm.chain.index == entry.sits_out_until
    swarm.said.clear()
    for index in (1, 2, 3):
        swarm.hear(index, Ready(0, swarm.chain.head, 8, 8, 2, 1.0))
    assert not swarm.told(1, Open), "it is waited for again"


def test_an_outlier_is_rejected_with_the_reason() -> None:
    swarm = trained(4)
    swarm.ready(1)
    swarm.ready(2, norm=1.2)
    swarm.ready(3, norm=1e6)
    assert not swarm.told(3, Rejected), "of three none can be judged by the others"
    swarm.ready(4, norm=0.8)
    assert "far above" in swarm.told(3, Rejected)[0].reason


def test_a_contribution_on_another_base_is_not_taken() -> None:
    swarm = trained(2)
    swarm.ready(1)
    swarm.hear(2, Ready(0, b"?" * 32, 8, 8, 1, 1.0))
    assert not swarm.told(1, Open)


def test_with_a_quorum_a_round_waits_for_no_more_than_that() -> None:
    swarm = Swarm(quorum=1, min_peers=2, grace_s=0.0)
    for index in range(3):
        swarm.enter(index)
    swarm.hold(0)
    for index in (1, 2):
        swarm.hold(index)
    swarm.ready(1)
    (opened,) = swarm.told(1, Open)
    assert opened.founders == (key(1),)
    assert not swarm.told(2, Open)


def test_a_quorum_does_not_let_one_train_alone_unnoticed() -> None:
    swarm = Swarm(quorum=1, min_peers=2, grace_s=0.0)
    swarm.enter(0)
    swarm.hold(0)
    swarm.ready(0)
    assert not swarm.told(0, Open)


def test_members_that_wait_for_each_other_in_a_circle_are_asked_for_what_has_waited_longest() -> None:
    swarm = Swarm(min_peers=2)
    for index in range(2):
        swarm.enter(index, elements=(100, 100))
    for index in range(2):
        for fragment in range(2):
            swarm.applied(index, ROOT, b"d" * 32, fragment)
        swarm.hear(index, CaughtUp(ROOT))
    swarm.ready(0, fragment=1)
    swarm.later(1.0)
    assert not swarm.told(1, Wanted)  # it may still be on its way there
    swarm.ready(1, fragment=0)
    swarm.later(0.1)
    assert (swarm.told(0, Wanted), swarm.told(1, Wanted)) == ([], [Wanted(1)])
    swarm.later(0.1)
    assert (swarm.told(0, Wanted), swarm.told(1, Wanted)) == ([Wanted(0)], [Wanted(1)])
    swarm.later(0.1)
    assert len(swarm.told(0, Wanted) + swarm.told(1, Wanted)) == 2  # each is asked once
    swarm.ready(1, fragment=1)
    assert swarm.told(0, Open)


def test_who_declines_a_round_loses_nothing_that_it_offered_since() -> None:
    swarm = trained(3)
    round_ = opened(swarm, 1, 2, 3)
    swarm.hear(1, Ready(0, swarm.chain.base(0), 16, 16, 2, 1.0))
    swarm.hear(1, Decline(round_.serial, "it is not about what was offered"))
    assert swarm.core.roster.entries[key(1)].ready[0].number == 2


def test_a_reason_that_is_quoted_in_another_one_fits_into_what_is_said() -> None:
    swarm = trained(2)
    round_ = opened(swarm, 1, 2)
    swarm.hear(1, Decline(round_.serial, "é" * 128))
    said = swarm.told(2, Abort)[-1]
    assert unpack(pack(said)) == said
    assert "declined: é" in said.reason


def test_one_whom_all_others_report_is_left_out_without_waiting_for_more_reports() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    swarm.hear(1, Stuck(serial, 0, (key(3),), ""))
    assert len(swarm.told(1, Open)) == 1
    swarm.hear(2, Stuck(serial, 0, (key(3),), ""))
    assert swarm.told(1, Open)[-1].lost == (2,)


@pytest.mark.parametrize(("element_bytes", "elements"), [(4.0, 1 << 18), (2.0, 1 << 19), (1.0, 1 << 20)])
def test_members_are_told_chunks_of_as_many_bytes_whatever_an_element_takes(
    element_bytes: float, elements: int
) -> None:
    swarm = Swarm(element_bytes=element_bytes)
    for index in (1, 2):
        swarm.enter(index, elements=(1 << 30,))
        swarm.hold(index)
    assert opened(swarm, 1, 2).chunk_elements == elements
