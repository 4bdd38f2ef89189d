"""Who holds a round up is out of it, and of the next ones for longer each time, whatever it does between."""

from __future__ import annotations

from peers.coordinator.stalls import FORGIVEN_AFTER
from peers.protocol.messages import Done, Open, Ready, Stuck
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained

MEMBERS = (1, 2, 3, 4, 5)


def next_round(swarm: Swarm, *reporters: int) -> bool:
    """All offer and are done, unless these wait for the last one in vain. Whether that one was in."""
    for index in MEMBERS:
        swarm.ready(index)
    swarm.later(swarm.core.state.rules.grace_s)
    first = swarm.told(1, Open)[-1]
    stalls = reporters and key(5) in first.founders
    for index in reporters if stalls else ():
        swarm.hear(index, Stuck(first.serial, 0, (key(5),), ""))
    swarm.later(swarm.core.state.rules.failure_timeout_s)
    for index in MEMBERS:
        swarm.hear(index, Done(first.serial, swarm.told(1, Open)[-1].attempt, RESULT))
    assert not swarm.core.state.courses[0].rounds
    return key(5) in first.founders


def commits_out(swarm: Swarm) -> int:
    entry = swarm.core.roster.entries[key(5)]
    return max(0, entry.sits_out_until - swarm.chain.index)


def stall_once(swarm: Swarm, *reporters: int) -> int:
    """It stalls; rounds without it before the next one with it, in which it does what the others do."""
    assert next_round(swarm, *reporters)
    for num_rounds in range(80):
        if next_round(swarm):
            return num_rounds
    raise AssertionError("it never comes back")


def test_one_for_whom_several_wait_in_vain_sits_out_for_longer_each_time_whatever_it_does_between() -> None:
    swarm = trained(5)
    assert [stall_once(swarm, 1, 2) for _ in range(4)] == [3, 23, 62, 62]


def test_one_members_word_alone_sets_another_aside_for_less() -> None:
    swarm = trained(5)
    assert [stall_once(swarm, 1) for _ in range(5)] == [0, 2, 6, 14, 14]


def test_who_stalled_is_forgiven_after_some_commits_without() -> None:
    swarm = trained(5)
    assert stall_once(swarm, 1, 2) == 3
    for _ in range(FORGIVEN_AFTER - 1):
        assert next_round(swarm)
    assert stall_once(swarm, 1, 2) == 3


def test_an_offer_of_one_that_sits_out_uses_up_no_grace_of_the_others() -> None:
    swarm = trained(5, grace_s=10.0)
    next_round(swarm, 1, 2)
    assert commits_out(swarm) == 3
    num_opened = len(swarm.told(1, Open))
    swarm.ready(5)
    swarm.later(9.0)
    swarm.ready(1)
    swarm.later(5.0)
    swarm.ready(2)
    assert len(swarm.told(1, Open)) == num_opened, "the grace began with the first offer that counts"
    swarm.later(5.0)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))


def test_whoever_offers_again_does_not_prolong_the_grace() -> None:
    swarm = trained(5, grace_s=10.0)
    swarm.ready(1)
    swarm.later(9.0)
    swarm.hear(1, Ready(0, swarm.chain.base(0), 9, 9, 2, 1.0))
    swarm.ready(2)
    swarm.later(1.0)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))


def test_where_only_they_are_left_a_round_takes_those_who_sit_out() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    swarm.hear(1, Stuck(serial, 0, (key(2),), ""))
    swarm.later(swarm.core.state.rules.failure_timeout_s)
    assert swarm.core.roster.entries[key(2)].sits_out_until > swarm.chain.index
    assert opened(swarm, 1, 2).serial > serial


def test_an_offer_of_a_time_in_which_it_sat_out_uses_up_no_grace_once_it_sits_out_no_more() -> None:
    swarm = trained(5, grace_s=10.0)
    next_round(swarm, 1, 2)
    course, late = swarm.core.state.courses[0], swarm.core.roster.entries[key(5)]
    for fragment, members in ((1, (5,)), (2, (1, 5))):  # which commits of fragment 0 leave as they are
        for index in members:
            swarm.core.roster.entries[key(index)].ready[fragment] = Ready(fragment, ROOT, 1, 9, 9, 1.0)
        course.ready_since[fragment], course.grace_ends[fragment] = swarm.now, swarm.now + 10.0
    offered_at = swarm.now
    while late.sits_out_until > swarm.chain.index:
        assert course.ready_since[1] == offered_at
        next_round(swarm)
    assert course.ready_since[1] > offered_at
    assert course.grace_ends.get(1, swarm.now) > offered_at + 10.0
    assert course.ready_since[2] == offered_at, "somebody else began that grace"
