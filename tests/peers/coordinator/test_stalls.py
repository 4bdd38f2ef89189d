"""Who holds a round up is out of it, and of the next ones for longer each time, whatever it does between.

Of two of whom only the other one speaks nobody is: they are kept apart.
"""

from __future__ import annotations

from itertools import product

from peers.coordinator.marks import FORGIVEN_AFTER as PARTED_FOR
from peers.coordinator.stalls import FORGIVEN_AFTER
from peers.protocol.messages import CaughtUp, Done, Open, Ready, Stuck
from peers.protocol.traces import PartedTrace, SetAsideTrace
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


def test_who_stalled_is_forgiven_after_some_commits_without() -> None:
    swarm = trained(5)
    assert stall_once(swarm, 1, 2) == 3
    for _ in range(FORGIVEN_AFTER - 1):
        assert next_round(swarm)
    assert stall_once(swarm, 1, 2) == 3


def test_who_keeps_rounds_of_several_fragments_waiting_at_the_same_time_stalls_once() -> None:
    swarm = Swarm()
    for index in MEMBERS:
        swarm.enter(index, elements=(100, 100))
        for fragment in (0, 1):
            swarm.applied(index, ROOT, b"d" * 32, fragment)
        swarm.hear(index, CaughtUp(ROOT))
    for fragment, index in product((0, 1), MEMBERS):
        swarm.ready(index, fragment=fragment)
    assert len(swarm.core.state.courses[0].rounds) == 2
    for current, reporter in product(list(swarm.core.state.courses[0].rounds.values()), (1, 2)):
        swarm.hear(reporter, Stuck(current.serial, current.attempt, (key(5),), ""))
    swarm.later(swarm.core.state.rules.failure_timeout_s)
    assert sat_out(swarm) == [key(5), key(5)]
    assert commits_out(swarm) == 4


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


# -- two of whom only the other one speaks ---------------------------------------------------------


def stuck(swarm: Swarm, reporter: int, *peers: int) -> None:
    """In the present attempt of the round that is open."""
    (current,) = swarm.core.state.courses[0].rounds.values()
    swarm.hear(reporter, Stuck(current.serial, current.attempt, tuple(map(key, peers)), ""))


def judged(swarm: Swarm) -> None:
    swarm.later(swarm.core.state.rules.failure_timeout_s / 4)


def finish(swarm: Swarm, *indexes: int) -> None:
    (current,) = swarm.core.state.courses[0].rounds.values()
    for index in indexes:
        swarm.hear(index, Done(current.serial, current.attempt, RESULT))
    assert not swarm.core.state.courses[0].rounds


def all_offer(swarm: Swarm) -> Open:
    for index in MEMBERS:
        swarm.ready(index)
    swarm.later(swarm.core.state.rules.grace_s)
    found = swarm.told(2, Open)[-1]
    assert isinstance(found, Open)
    return found


def sat_out(swarm: Swarm) -> list[bytes]:
    return [trace.peer for trace in swarm.traces if isinstance(trace, SetAsideTrace)]


def test_two_that_do_not_reach_each_other_both_stay_and_own_no_chunks() -> None:
    swarm = trained(5)
    serial = opened(swarm, *MEMBERS).serial
    stuck(swarm, 1, 5)
    stuck(swarm, 5, 1)
    judged(swarm)
    again = swarm.told(5, Open)[-1]
    assert (again.serial, again.attempt, again.idle, again.lost) == (serial, 1, (0, 4), ())
    assert not again.proved
    assert not sat_out(swarm)
    assert [trace.peers for trace in swarm.traces if isinstance(trace, PartedTrace)] == [(key(1), key(5))]
    finish(swarm, *MEMBERS)
    assert all_offer(swarm).idle == (0, 4), "the next rounds do not find out anew"


def test_the_pair_owns_chunks_again_after_a_while_and_where_only_one_of_it_is_there() -> None:
    swarm = trained(5)
    opened(swarm, *MEMBERS)
    stuck(swarm, 1, 5)
    judged(swarm)
    finish(swarm, *MEMBERS)
    for index in (2, 3, 4, 5):
        swarm.ready(index)
    swarm.later(swarm.core.state.rules.grace_s)
    assert swarm.told(5, Open)[-1].idle == ()
    finish(swarm, 2, 3, 4, 5)
    for _ in range(14):
        assert all_offer(swarm).idle == (0, 4)
        finish(swarm, *MEMBERS)
    assert all_offer(swarm).idle == ()


def test_one_that_speaks_of_another_and_then_of_a_third_sits_out_and_neither_of_them_does() -> None:
    swarm = trained(5)
    opened(swarm, *MEMBERS)
    stuck(swarm, 1, 5)
    judged(swarm)
    stuck(swarm, 1, 4)
    judged(swarm)
    assert sat_out(swarm) == [key(1)], "though it came first"
    finish(swarm, 2, 3, 4, 5)
    assert swarm.core.roster.entries[key(1)].sits_out_until - swarm.chain.index == 23


def test_what_it_did_is_remembered_over_rounds_and_forgiven_in_the_end() -> None:
    for clean, culprits in ((0, [key(1)]), (16 + PARTED_FOR, [])):
        swarm = trained(5)
        opened(swarm, *MEMBERS)
        stuck(swarm, 5, 1)
        judged(swarm)
        finish(swarm, *MEMBERS)
        for _ in range(clean):
            all_offer(swarm)
            finish(swarm, *MEMBERS)
        all_offer(swarm)
        stuck(swarm, 4, 1)
        judged(swarm)
        assert sat_out(swarm) == culprits


def test_whoever_reports_one_of_whom_it_needs_nothing_sits_out() -> None:
    swarm = trained(5)
    opened(swarm, *MEMBERS)
    stuck(swarm, 1, 5)
    judged(swarm)
    stuck(swarm, 1, 5)
    judged(swarm)
    assert sat_out(swarm) == [key(1)]


def test_a_pair_of_whom_one_is_silent_to_the_host_too_loses_that_one() -> None:
    swarm = trained(5)
    opened(swarm, *MEMBERS)
    swarm.silent[key(1)] = swarm.now
    swarm.later(3.0)
    stuck(swarm, 5, 1)
    judged(swarm)
    assert sat_out(swarm) == [key(1)]


def test_one_that_is_silent_to_the_host_too_sits_out_no_longer_because_several_wait() -> None:
    swarm = trained(5, failure_timeout_s=6.0)
    opened(swarm, *MEMBERS)
    swarm.silent[key(5)] = swarm.now
    swarm.later(6.0)
    stuck(swarm, 1, 5)
    stuck(swarm, 2, 5)
    judged(swarm)
    assert sat_out(swarm) == [key(5)]
    finish(swarm, 1, 2, 3, 4)
    assert commits_out(swarm) == 0, "the round that it was in counts"


def test_of_three_the_third_owns_all_chunks_and_neither_of_the_pair_sits_out() -> None:
    swarm = trained(3)
    opened(swarm, 1, 2, 3)
    stuck(swarm, 1, 3)
    judged(swarm)
    assert swarm.told(2, Open)[-1].idle == (0, 2)
    finish(swarm, 1, 2, 3)
    assert opened(swarm, 1, 2, 3).idle == (0, 2), "the next rounds do not find out anew"
    assert not sat_out(swarm)


def test_of_three_one_that_speaks_of_both_others_sits_out_and_neither_of_them_does() -> None:
    swarm = trained(3)
    opened(swarm, 1, 2, 3)
    stuck(swarm, 1, 3)
    judged(swarm)
    stuck(swarm, 1, 2)
    judged(swarm)
    finish(swarm, 2, 3)
    assert sat_out(swarm) == [key(1)]


def test_of_two_there_is_nobody_else_to_own_chunks_so_they_take_turns_and_the_last_to_come_begins() -> None:
    swarm = trained(2)
    for _ in range(3):
        opened(swarm, 1, 2)
        stuck(swarm, 1, 2)
        judged(swarm)
    assert sat_out(swarm) == [key(2), key(1), key(2)]


def test_two_pairs_of_four_leave_nobody_to_own_chunks_so_one_goes_and_the_third_left_owns_all() -> None:
    swarm = trained(4)
    opened(swarm, 1, 2, 3, 4)
    stuck(swarm, 1, 2)
    stuck(swarm, 3, 4)
    judged(swarm)
    again = swarm.told(1, Open)[-1]
    (gone,), pairs = again.lost, ({0, 1}, {2, 3})
    assert {0, 1, 2, 3} - {gone, *again.idle} == next(pair for pair in pairs if gone in pair) - {gone}
    assert len(sat_out(swarm)) == 1


def test_one_that_is_put_out_leaves_nobody_parted() -> None:
    swarm = trained(5)
    opened(swarm, *MEMBERS)
    stuck(swarm, 1, 5)
    judged(swarm)
    swarm.core.kick(swarm.now, "w1")
    assert not swarm.core.state.courses[0].apart
