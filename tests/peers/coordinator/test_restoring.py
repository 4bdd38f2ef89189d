"""From which state a run goes on when nobody holds its head: whom it waits for, where its owner decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peers.coordinator.restoring import RESTORE_WAIT_TIMEOUTS
from peers.coordinator.waiting import waits_for
from peers.errors import ResumeError
from peers.protocol.messages import (
    Applying,
    CatchUp,
    CaughtUp,
    Committed,
    Entered,
    Leave,
    NeedState,
    Open,
    Seed,
)
from peers.protocol.record import Record, record_in
from peers.protocol.traces import CommittedTrace, RestoredTrace, StateLostTrace
from tests.peers.coordinator.coordinator_kit import ROOT, Swarm, key, trained
from tests.peers.coordinator.test_saving import DIGEST, commit, restarted, say_saved
from transport.limits import LIMITS

TIMEOUT_S = 2.0
RULES = {"failure_timeout_s": TIMEOUT_S}


def all_died(
    *saved: tuple[int, int, bool], num_commits: int = 3, remembers: int = 512
) -> tuple[Swarm, list[bytes]]:
    """A coordinator that starts again after some commits of members 1 and 2, and all heads; ``saved`` are
    member, index, and whether it keeps results. It remembers so many records."""
    swarm, heads = trained(2, **RULES), [ROOT]
    for index in range(num_commits + 1):
        for member, _, keeps in [each for each in saved if each[1] == index]:
            say_saved(swarm, member, heads[index], keeps=keeps)
        if index < num_commits:
            heads.append(commit(swarm, 1, 2))
    limits = replace(LIMITS, history_records=remembers)
    return restarted(swarm, limits=limits, **RULES), heads


def come(swarm: Swarm, member: int, head: bytes) -> None:
    swarm.greet(member, head=head, holds_state=True)
    swarm.hold(member, head)


def wait(swarm: Swarm, timeouts: float) -> None:
    for _ in range(round(2 * timeouts)):
        swarm.later(TIMEOUT_S / 2)


def restored(swarm: Swarm) -> list[Record]:
    told = swarm.told(1, Committed) + swarm.told(2, Committed)
    records = dict.fromkeys(record_in(message.record) for message in told)
    return [record for record in records if record.restores]


def line(swarm: Swarm) -> str:
    return waits_for(swarm.core.state, swarm.now)


def test_who_comes_back_is_told_the_records_after_its_checkpoint() -> None:
    swarm, heads = all_died((1, 1, True))
    come(swarm, 1, heads[1])
    told = [record_in(message.record).index for message in swarm.told(1, Committed)]
    assert told == [2, 3]
    assert swarm.told(1, Entered)


def test_as_long_as_somebody_comes_nearer_to_the_head_nothing_is_decided() -> None:
    swarm, heads = all_died((1, 0, True), num_commits=9)
    come(swarm, 1, heads[0])
    for head in heads[1:]:
        wait(swarm, 1.5)
        assert not restored(swarm)
        swarm.hold(1, head)
    wait(swarm, 99)
    assert not restored(swarm), "the head is held"


@pytest.mark.parametrize("upto", [2, 3])
def test_while_somebody_applies_what_follows_nothing_is_given_up(upto: int) -> None:
    """Or all who are here would be beyond the state that is gone back to, and nobody held one any more."""
    swarm, heads = all_died((1, 1, False))
    come(swarm, 1, heads[1])
    swarm.hear(1, Applying(heads[upto]))
    wait(swarm, RESTORE_WAIT_TIMEOUTS - 1)
    assert not restored(swarm)
    swarm.hold(1, heads[upto])
    wait(swarm, 3)
    assert [record.result for record in restored(swarm)] == [heads[2]] * (upto == 2)


def test_who_only_says_that_it_applies_something_is_not_waited_for_for_ever() -> None:
    swarm, heads = all_died((1, 1, False))
    come(swarm, 1, heads[1])
    for head in (heads[2], b"x" * 32, heads[0]):
        swarm.hear(1, Applying(head))
    wait(swarm, RESTORE_WAIT_TIMEOUTS + 1)
    assert [record.result for record in restored(swarm)] == [heads[1]]


def test_one_that_is_away_and_whose_disk_has_more_is_waited_for() -> None:
    swarm, heads = all_died((1, 1, False), (2, 2, False))
    come(swarm, 1, heads[1])
    wait(swarm, RESTORE_WAIT_TIMEOUTS - 1)
    assert not restored(swarm)
    said = "waiting for w2, whose disk has more (commit 1 is the best here), for at most 60 s"
    assert line(swarm).startswith(said)
    assert "--resume 1" in line(swarm)
    come(swarm, 2, heads[2])
    wait(swarm, 1)
    assert not restored(swarm)
    wait(swarm, 2)
    assert [record.result for record in restored(swarm)][:1] == [heads[2]]


def test_whoever_is_here_and_has_as_much_on_its_own_disk_is_named_and_not_one_that_is_away() -> None:
    swarm, heads = all_died((1, 1, True), (2, 1, True))
    come(swarm, 1, heads[1])
    wait(swarm, 1)
    assert line(swarm) == "w1 goes on to commit 3 by the results on its disk"
    swarm.hear(1, NeedState("no member has a committed result any more"))
    assert line(swarm).startswith("waiting for w2, whose disk has more (commit 1 is the best here)")


def test_one_that_is_away_and_has_more_than_who_comes_nearer_is_named() -> None:
    swarm, heads = all_died((1, 1, False), (2, 3, False))
    come(swarm, 1, heads[1])
    assert line(swarm).startswith("waiting for w2, ")
    swarm.hold(1, heads[2])
    assert line(swarm).startswith("waiting for w2, whose disk has more (commit 2 is the best here)")


def test_who_has_just_come_back_has_time_to_hand_out_its_results_before_anything_is_given_up() -> None:
    swarm, heads = all_died((1, 1, False), (2, 2, False))
    come(swarm, 2, heads[2])
    wait(swarm, 1.5)
    come(swarm, 1, heads[1])
    wait(swarm, 1.5)
    assert not restored(swarm)
    wait(swarm, 1)
    assert [record.result for record in restored(swarm)] == [heads[2]]


def test_one_that_comes_back_again_and_again_puts_nothing_off_for_longer_than_is_said() -> None:
    swarm, heads = all_died((1, 2, False))
    for _ in range(RESTORE_WAIT_TIMEOUTS - 1):
        come(swarm, 1, heads[2])
        wait(swarm, 1)
        assert not restored(swarm)
    come(swarm, 1, heads[2])
    wait(swarm, 1)
    assert [record.result for record in restored(swarm)] == [heads[2]]


def test_who_lacked_a_result_is_told_again_when_somebody_comes_who_may_have_it_and_else_not() -> None:
    swarm, heads = all_died((1, 1, True), (2, 1, True))
    come(swarm, 1, heads[1])
    swarm.hear(1, NeedState("no member has a committed result any more"))
    wait(swarm, 3)
    assert [record_in(message.record).index for message in swarm.told(1, Committed)] == [2, 3]
    come(swarm, 2, heads[1])
    wait(swarm, 0.5)
    assert [record_in(message.record).index for message in swarm.told(1, Committed)] == [2, 3, 2, 3]
    swarm.hear(1, NeedState("no member has a committed result any more"))
    wait(swarm, 1)
    assert len(swarm.told(1, Committed)) == 4


def test_who_does_not_come_is_waited_for_no_longer_than_is_said() -> None:
    swarm, heads = all_died((1, 1, False), (2, 2, False))
    come(swarm, 1, heads[1])
    wait(swarm, RESTORE_WAIT_TIMEOUTS + 1)
    assert [record.result for record in restored(swarm)] == [heads[1]]


def test_results_that_a_member_keeps_count_as_more() -> None:
    swarm, heads = all_died((1, 1, False), (2, 0, True))
    come(swarm, 1, heads[1])
    wait(swarm, 9)
    assert not restored(swarm)
    assert "w2" in line(swarm)


@pytest.mark.parametrize("gone", ["kicked", "has less", "has as much"])
def test_nobody_is_waited_for_who_may_not_come_or_has_less(gone: str) -> None:
    has = {"kicked": 2, "has less": 0, "has as much": 1}[gone]
    swarm, heads = all_died((1, 1, False), (2, has, False))
    if gone == "kicked":
        swarm.core.kick(0.0, "w2")
    come(swarm, 1, heads[1])
    assert "whose disk" not in line(swarm)
    wait(swarm, 3)
    assert [record.result for record in restored(swarm)] == [heads[1]]


def test_where_nobody_holds_any_state_the_run_waits_for_ever_and_says_for_whom() -> None:
    swarm, heads = all_died((1, 2, True))
    swarm.enter(3)
    wait(swarm, 500)
    assert (swarm.chain.head, swarm.told(3, Seed), swarm.told(3, CatchUp)) == (heads[3], [], [])
    assert sum(isinstance(trace, StateLostTrace) for trace in swarm.traces) == 1
    said = "no worker here holds the run's state (commit 3): start w1, whose disk has it"
    assert line(swarm).startswith(said)
    assert "--fresh" in line(swarm)
    come(swarm, 1, heads[2])
    swarm.hold(1, heads[3])
    assert swarm.told(3, CatchUp)[-1].donors == (key(1),)


def test_a_first_state_is_replaced_once_who_saved_it_had_the_time_to_come_back() -> None:
    swarm, _ = all_died((1, 0, True), num_commits=0)
    swarm.enter(3)
    wait(swarm, RESTORE_WAIT_TIMEOUTS - 1)
    assert swarm.told(3, Seed) == []
    assert line(swarm).startswith("waiting for w1, whose disk has more (nobody here has it)")
    wait(swarm, 2)
    assert swarm.told(3, Seed)


def test_a_head_behind_which_the_swarm_went_back_is_never_restored_by_itself() -> None:
    swarm, heads = all_died((1, 1, False), (2, 3, False))
    come(swarm, 1, heads[1])
    wait(swarm, RESTORE_WAIT_TIMEOUTS + 1)
    (record,) = restored(swarm)
    assert record.result == heads[1]
    swarm.hold(1, record.hash())
    swarm.hear(1, Leave("done"))
    come(swarm, 2, heads[3])
    wait(swarm, 500)
    assert restored(swarm) == [record]
    assert "no worker here holds the run's state (commit 4)" in line(swarm)


def test_a_state_so_old_that_its_records_are_not_kept_can_be_restored() -> None:
    swarm, heads = all_died((1, 1, False), remembers=1)
    come(swarm, 1, heads[1])
    assert swarm.told(1, Committed) == []
    wait(swarm, 3)
    assert [record.result for record in restored(swarm)] == [heads[1]]


# -- who is far behind ------------------------------------------------------------------------------


@pytest.mark.parametrize(("keeps", "follows"), [(True, True), (False, False)])
def test_who_lacks_many_results_fetches_the_whole_state_of_a_run_that_goes_on(
    keeps: bool, follows: bool
) -> None:
    swarm = trained(2, **RULES)
    say_saved(swarm, 2, ROOT, keeps=keeps)
    for _ in range(66):
        commit(swarm, 1, 2)
    swarm.hear(2, Leave("its machine slept"))
    swarm.said.clear()
    come(swarm, 2, ROOT)
    assert (len(swarm.told(2, CatchUp)) == 0) is follows
    if follows:
        told = [record_in(message.record).index for message in swarm.told(2, Committed)]
        assert told[-66:] == list(range(1, 67))


# -- the owner decides ------------------------------------------------------------------------------


def test_from_where_the_owner_says_the_run_goes_on_as_soon_as_somebody_who_has_it_is_here() -> None:
    swarm, heads = all_died((1, 1, True), (2, 3, True))
    swarm.core.resume_from(1)
    come(swarm, 2, heads[3])
    wait(swarm, 99)
    assert (swarm.chain.head, swarm.told(2, Open)) == (heads[3], [])
    said = "the run goes on from commit 1 of 3 as soon as a worker that has it is here"
    assert line(swarm).startswith(said)
    come(swarm, 1, heads[1])
    assert [record_in(message.record).index for message in swarm.told(1, Committed)] == [4]
    (trace,) = [trace for trace in swarm.traces if isinstance(trace, RestoredTrace)]
    assert (trace.lost, trace.index, trace.peer, trace.to_index) == (heads[3], 3, key(1), 1)
    assert trace.reason == "its owner gives up what came after it"
    swarm.hold(1, swarm.chain.head)
    swarm.hear(2, NeedState("the swarm went back to an earlier state"))
    assert swarm.told(2, CatchUp)[-1].donors == (key(1),)


def test_until_then_records_after_it_are_told_to_nobody() -> None:
    swarm, heads = all_died((1, 1, True), num_commits=3)
    swarm.core.resume_from(2)
    come(swarm, 1, heads[1])
    assert [record_in(message.record).index for message in swarm.told(1, Committed)] == [2]
    swarm.applied(1, heads[2], DIGEST)
    swarm.hear(1, CaughtUp(heads[2]))
    assert [record_in(message.record).index for message in swarm.told(1, Committed)] == [2, 4]


def test_to_go_on_from_the_newest_commit_is_nothing_special() -> None:
    swarm, heads = all_died()
    swarm.core.resume_from(3)
    come(swarm, 1, heads[3])
    come(swarm, 2, heads[3])
    assert commit(swarm, 1, 2) == swarm.chain.head


@pytest.mark.parametrize(("index", "says"), [(4, "it has 3 commits"), (-1, "it has 3"), (1, "only those")])
def test_what_cannot_be_gone_back_to_is_said_in_one_line(index: int, says: str) -> None:
    swarm, _ = all_died(remembers=1)
    with pytest.raises(ResumeError, match=says):
        swarm.core.resume_from(index)


def test_to_go_back_is_a_commit_and_no_round() -> None:
    swarm, heads = all_died((1, 2, True), (2, 2, True))
    swarm.core.resume_from(1)
    for index in (1, 2):
        come(swarm, index, heads[1])
        swarm.hold(index, swarm.chain.head)
    commit(swarm, 1, 2)
    found = swarm.core.status(swarm.now)
    assert (found.num_rounds, found.num_commits) == (4, 5)
    told = [trace for trace in swarm.traces if isinstance(trace, CommittedTrace)][-1]
    assert (told.num_rounds, told.index) == (4, 5)
