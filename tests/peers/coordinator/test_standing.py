"""Memberships of replicas: they outlive sessions and hosts, and everybody is told in order."""

from __future__ import annotations

from peers.coordinator.standing import COMES_BACK_TIMEOUTS, MAX_NEW, Standing
from peers.protocol.messages import Leave, Refused
from peers.protocol.stream import Draining, ReplicaGone, ReplicaIs, RosterIs, StandsSince
from tests.peers.coordinator.coordinator_kit import Swarm, key

TIMEOUT_S = 5.0


def two_stages(journal: list[bytes] | None = None) -> Swarm:
    return Swarm(journal, stages=2, failure_timeout_s=TIMEOUT_S)


def since(swarm: Swarm, index: int) -> int:
    found = swarm.told(index, StandsSince)[-1].since
    assert isinstance(found, int)
    return found


def test_replicas_of_all_stages_are_told_of_each_other() -> None:
    swarm = two_stages()
    swarm.join_stage(1, 0)
    swarm.join_stage(2, 1)
    assert [each.key for each in swarm.told(2, ReplicaIs)] == [key(1), key(2)]
    assert [(each.key, each.stage) for each in swarm.told(1, ReplicaIs)] == [(key(1), 0), (key(2), 1)]
    assert swarm.told(2, RosterIs)[-1].epoch >= since(swarm, 2) > since(swarm, 1)


def test_replicas_of_a_stage_are_on_lines_of_their_own() -> None:
    swarm = two_stages()
    for index, stage in ((1, 0), (2, 0), (3, 1)):
        swarm.join_stage(index, stage)
    assert {each.key: each.line for each in swarm.told(3, ReplicaIs)} == {key(1): 0, key(2): 1, key(3): 0}


def test_a_membership_outlives_a_session_and_not_its_process() -> None:
    swarm = two_stages()
    swarm.join_stage(1, 0)
    swarm.join_stage(2, 1)
    first = since(swarm, 2)
    swarm.hear(2, StandsSince(first))
    swarm.greet(2, stage=1)
    assert since(swarm, 2) == first
    assert not swarm.told(1, ReplicaGone)
    swarm.greet(2, stage=1)  # a new process says nothing of a membership
    assert since(swarm, 2) > first
    assert swarm.told(1, ReplicaGone)[-1].key == key(2)


def test_a_membership_outlives_its_host_and_who_does_not_come_back_is_gone() -> None:
    swarm = two_stages()
    for index, stage in ((1, 0), (2, 1), (3, 1)):
        swarm.join_stage(index, stage)
    again = two_stages(swarm.journal)
    again.hear(1, StandsSince(since(swarm, 1)))
    again.greet(1, stage=0)
    assert since(again, 1) == since(swarm, 1)
    assert not again.told(1, RosterIs), "the others may be on their way"
    again.hear(2, StandsSince(since(swarm, 2)))
    again.greet(2, stage=1)
    again.later(COMES_BACK_TIMEOUTS * TIMEOUT_S)
    assert [each.key for each in again.told(1, ReplicaGone)] == [key(3)]
    assert again.told(1, RosterIs)
    again.hear(3, StandsSince(since(swarm, 3)))
    again.greet(3, stage=1)
    assert since(again, 3) > since(swarm, 3), "it was over"


def test_an_end_is_journaled_before_it_is_told() -> None:
    swarm = two_stages()
    swarm.join_stage(1, 0)
    swarm.join_stage(2, 1)
    swarm.hear(2, Leave("done"))
    again = two_stages(swarm.journal)
    again.hear(2, StandsSince(since(swarm, 2)))
    again.greet(2, stage=1)
    assert since(again, 2) > since(swarm, 2)


def test_one_who_leaves_is_on_no_new_path() -> None:
    swarm = two_stages()
    swarm.join_stage(1, 0)
    swarm.join_stage(2, 1)
    swarm.hear(2, Draining(since(swarm, 2)))
    assert swarm.told(1, ReplicaIs)[-1].drains
    assert swarm.told(2, ReplicaIs)[-1].drains


def test_one_that_enters_again_and_again_fills_no_journal() -> None:
    swarm = two_stages()
    swarm.join_stage(1, 0)
    for _ in range(MAX_NEW - 1):
        swarm.greet(1, stage=0)
    assert not swarm.told(1, Refused), "a process may well come back a few times"
    swarm.greet(1, stage=0)
    assert swarm.told(1, Refused)[-1].code == "often"
    size = len(swarm.journal)
    for _ in range(100):
        swarm.greet(1, stage=0)
    assert len(swarm.journal) == size
    swarm.later(TIMEOUT_S)
    swarm.greet(1, stage=0)
    swarm.hear(1, StandsSince(since(swarm, 1)))
    num_refused = len(swarm.told(1, Refused))
    swarm.greet(1, stage=0)
    assert len(swarm.told(1, Refused)) == num_refused, "a membership that goes on is no new one"


def test_in_a_run_with_one_stage_nothing_is_said() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.enter(2)
    assert not swarm.told(1, StandsSince) + swarm.told(1, ReplicaIs) + swarm.told(1, RosterIs)
    assert isinstance(Standing(swarm.core.state), Standing)
