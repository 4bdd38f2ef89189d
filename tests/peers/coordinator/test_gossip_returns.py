"""Who comes back to a run that gossips: with a replica of its own, or to fetch another one; what a host that
restarts knows."""

from __future__ import annotations

import pytest

from peers.coordinator.gossip import MAX_STEPS_BEHIND
from peers.coordinator.journal import RunBegan, StateSaved, StepsTaken
from peers.coordinator.waiting import waits_for
from peers.errors import ResumeError
from peers.protocol.messages import CatchUp, Leave, NeedState, NewestRecord, Saved, SaveNow, Seed
from peers.protocol.orders import Obeyed
from peers.protocol.record import GENESIS
from peers.protocol.traces import LeftBehindTrace, SavedTrace, StateLostTrace
from tests.peers.coordinator.coordinator_kit import ROOT, Swarm, key, speed
from transport.frames import unpack


def gossiping(*steps: int, **rules: object) -> Swarm:
    """Members 1 to n, each with so many outer steps behind it."""
    swarm = Swarm(gossips=True, **{"rounds": 500, **rules})
    for index, taken in enumerate(steps, 1):
        swarm.enter(index)
        swarm.hold(index)
        swarm.hear(index, speed(1.0, rounds=taken))
    return swarm


def come_back(swarm: Swarm, index: int, steps: int, head: bytes = ROOT) -> None:
    """A member whose process ended begins with the replica on its disk."""
    swarm.core.certify(key(index), f"w{index}")
    swarm.hear(index, NewestRecord(head, steps, b""))
    swarm.greet(index, head=head, holds_state=True)
    swarm.hold(index, head)


def is_active(swarm: Swarm, index: int) -> bool:
    return swarm.core.roster.entries[key(index)].active


def left_behind(swarm: Swarm) -> list[tuple[str, int]]:
    return [(each.peer_name, each.steps) for each in swarm.traces if isinstance(each, LeftBehindTrace)]


def entries(swarm: Swarm, kind: type) -> list[object]:
    return [found for packed in swarm.journal if isinstance(found := unpack(packed), kind)]


@pytest.mark.parametrize("steps", [100 - MAX_STEPS_BEHIND, 100, 130])
def test_who_comes_back_little_behind_the_others_or_ahead_goes_on_with_its_own_replica(steps: int) -> None:
    swarm = gossiping(100, 99)
    come_back(swarm, 3, steps)
    assert is_active(swarm, 3)
    assert (swarm.told(3, CatchUp), left_behind(swarm)) == ([], [])


def test_who_comes_back_far_behind_fetches_a_replica_as_a_newcomer_does() -> None:
    swarm = gossiping(100, 102, 101)
    come_back(swarm, 4, 98)
    assert not is_active(swarm, 4)
    (order,) = swarm.told(4, CatchUp)
    assert set(order.donors) <= {key(1), key(2), key(3)}
    assert left_behind(swarm) == [("w4", 98)]
    swarm.hold(4)
    assert is_active(swarm, 4)
    come_back(swarm, 5, 100)
    assert left_behind(swarm) == [("w4", 98)], "what it came with counts no more"


def test_when_all_died_the_first_who_is_back_goes_on_at_once_and_a_newcomer_copies_it() -> None:
    swarm = Swarm(gossiping(100, 90).journal, gossips=True, rounds=500)
    come_back(swarm, 2, 90)
    assert is_active(swarm, 2)
    swarm.enter(7)
    assert swarm.told(7, CatchUp)[0].donors == (key(2),)


def test_one_that_was_there_first_with_far_less_fetches_when_others_come_with_more() -> None:
    swarm = Swarm(gossiping(100, 100, 100).journal, gossips=True, rounds=500)
    for index, steps in ((3, 60), (1, 100)):
        come_back(swarm, index, steps)
    assert left_behind(swarm) == [("w3", 60)]
    assert swarm.told(3, CatchUp)[0].donors == (key(1),)
    assert is_active(swarm, 1)


def test_who_was_to_copy_a_replica_goes_on_from_its_own_if_all_others_go_before_it_has() -> None:
    swarm = gossiping(100)
    come_back(swarm, 2, 60)
    assert swarm.told(2, CatchUp)
    swarm.hear(1, Leave("done"))
    assert swarm.told(2, Seed) == [], "it is at it, and may have all of it"
    swarm.hear(2, NeedState("no donor has the state any more"))
    assert len(swarm.told(2, Seed)) == 1
    swarm.hold(2)
    assert is_active(swarm, 2)


@pytest.mark.parametrize(("gone_on", "copies"), [(0, True), (19, True), (20, False), (39, False)])
def test_one_that_has_gone_on_from_its_replica_by_more_than_it_lacks_is_left_to_catch_up(
    gone_on: int, copies: bool
) -> None:
    swarm = Swarm(gossiping(100, 100).journal, gossips=True, rounds=500)
    come_back(swarm, 2, 60)
    swarm.hear(2, speed(1.0, rounds=60 + gone_on))
    come_back(swarm, 1, 100)
    assert is_active(swarm, 2) is not copies
    assert len(left_behind(swarm)) == copies


def test_the_hosts_own_worker_is_compared_with_those_who_lived_on_once_they_tell_how_far_they_are() -> None:
    """It is the first who is back where the host restarts."""
    swarm = Swarm(gossiping(100, 100, 100).journal, gossips=True, rounds=500)
    come_back(swarm, 3, 60)
    for index in (1, 2):
        swarm.greet(index, head=ROOT, holds_state=True)
        swarm.hold(index)
    assert is_active(swarm, 3)
    swarm.hear(1, speed(1.0, rounds=100))
    assert left_behind(swarm) == [("w3", 60)]
    assert swarm.told(3, CatchUp)[0].donors in ((key(1),), (key(2),))
    swarm.hear(2, speed(1.0, rounds=100))
    assert left_behind(swarm) == [("w3", 60)]


def test_who_lived_on_while_the_host_was_away_is_compared_with_nobody() -> None:
    swarm = Swarm(gossiping(100, 60).journal, gossips=True, rounds=500)
    for index, steps in ((1, 100), (2, 60)):
        swarm.greet(index, head=ROOT, holds_state=True)
        swarm.hold(index)
        swarm.hear(index, speed(1.0, rounds=steps))
    come_back(swarm, 3, 99)
    assert [is_active(swarm, index) for index in (1, 2, 3)] == [True, True, True]


def test_outer_steps_that_all_have_taken_are_known_after_a_restart_and_are_counted_once() -> None:
    swarm = gossiping(3, 5)
    swarm.hear(1, speed(1.0, rounds=5))
    swarm.hear(2, speed(1.0, rounds=5))
    assert entries(swarm, StepsTaken) == [StepsTaken(3), StepsTaken(5)]
    again = Swarm(swarm.journal, gossips=True, rounds=500)
    assert again.core.state.num_rounds == 5
    come_back(again, 1, 4)
    again.hear(1, speed(1.0, rounds=4))
    assert again.core.state.num_rounds == 5
    for steps in (5, 6):
        again.hear(1, speed(1.0, rounds=steps))
    assert entries(again, StepsTaken)[2:] == [StepsTaken(6)]


def test_a_run_that_had_all_its_steps_is_finished_after_a_restart() -> None:
    swarm = gossiping(500)
    assert swarm.core.finished
    assert Swarm(swarm.journal, gossips=True, rounds=500).core.finished


def say_saved(swarm: Swarm, index: int, steps: int) -> None:
    swarm.hear(index, Saved(steps, ROOT, bytes([steps]) * 32, False))


def test_that_a_disk_has_a_replica_is_journaled_once_and_the_newest_is_shown() -> None:
    swarm = gossiping(3, 5)
    for steps in (3, 4, 4):
        say_saved(swarm, 1, steps)
    say_saved(swarm, 2, 5)
    assert [(each.key, each.index) for each in entries(swarm, StateSaved)] == [(key(1), 3), (key(2), 5)]  # type: ignore[attr-defined]
    assert sum(isinstance(trace, SavedTrace) for trace in swarm.traces) == 3
    found = swarm.core.status(0.0)
    assert (found.gossips, found.saved_index, found.saved_by) == (True, 5, ("w1", "w2"))
    swarm.hear(1, Saved(9, b"x" * 32, bytes(32), False))
    assert swarm.core.status(0.0).saved_index == 5, "that is of another run's first state"


def test_a_newcomer_alone_waits_for_those_whose_disks_have_the_run() -> None:
    """It begins nothing anew in their place."""
    swarm = gossiping(3, 5)
    say_saved(swarm, 1, 3)
    again = Swarm(swarm.journal, gossips=True, rounds=500)
    again.enter(7)
    for _ in range(200):
        again.later(6.0)
    assert again.chain.head == ROOT
    assert again.told(7, Seed) == []
    assert any(isinstance(trace, StateLostTrace) for trace in again.traces)
    said = waits_for(again.core.state, again.now)
    assert "no worker here holds the run's state (outer step 3): start w1, whose disk has it" in said
    come_back(again, 1, 3)
    assert again.told(7, CatchUp)[0].donors == (key(1),)


def test_before_a_first_outer_step_another_first_state_is_asked_for_as_in_other_runs() -> None:
    swarm = gossiping(0)
    swarm.hear(1, Leave("done"))
    swarm.enter(7)
    for _ in range(10):
        swarm.later(6.0)
    assert swarm.told(7, Seed)


def test_those_whose_disks_have_a_replica_are_named_where_too_few_are_here() -> None:
    swarm = gossiping(3, 5)
    say_saved(swarm, 1, 3)
    again = Swarm(swarm.journal, gossips=True, rounds=500)
    assert "w1 took part last: start it again" in waits_for(again.core.state, 0.0)


def test_where_the_journal_is_lost_who_comes_back_names_the_first_state() -> None:
    swarm = Swarm(gossips=True, rounds=500)
    come_back(swarm, 1, 40)
    come_back(swarm, 2, 39)
    assert [is_active(swarm, index) for index in (1, 2)] == [True, True]
    assert entries(swarm, RunBegan) == [RunBegan(ROOT)]


def test_where_a_first_state_is_awaited_nobody_else_names_one() -> None:
    swarm = Swarm(gossips=True, rounds=500)
    swarm.enter(1)
    assert swarm.told(1, Seed)
    come_back(swarm, 2, 40, head=b"x" * 32)
    assert swarm.chain.head == GENESIS
    swarm.hold(1)
    assert (swarm.chain.head, is_active(swarm, 2)) == (ROOT, False)
    assert swarm.told(2, CatchUp)


def test_the_owner_has_each_save_its_replica_and_takes_none_of_them_back() -> None:
    swarm = gossiping(3, 5)
    answer = swarm.core.save_now(0.0)
    assert isinstance(answer, Obeyed)
    assert "asked to save the replica of each: w1, w2" in answer.detail
    assert [swarm.told(index, SaveNow) for index in (1, 2)] == [[SaveNow(0)], [SaveNow(0)]]
    with pytest.raises(ResumeError, match="diloco join --resume 2 begins with that worker's of outer step 2"):
        swarm.core.resume_from(2)
