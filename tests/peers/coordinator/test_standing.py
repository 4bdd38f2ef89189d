"""Memberships of replicas: they outlive sessions and hosts, and everybody is told in order."""

from __future__ import annotations

from collections import Counter

import pytest

from peers.coordinator.standing import COMES_BACK_TIMEOUTS, MAX_NEW, NEWS_TIMEOUTS, Standing
from peers.protocol.messages import Leave, Open, Refused, Wanted
from peers.protocol.placing import Wiring
from peers.protocol.stream import Draining, EndsAre, Feeding, ReplicaGone, ReplicaIs, RosterIs, StandsSince
from peers.routing.replicas import Replicas
from peers.routing.wiring import Wires
from tests.peers.coordinator.coordinator_kit import Swarm, key, speed

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


def measured(swarm: Swarm, **speeds: float) -> None:
    """Members say how fast they compute, and the coordinator looks at it."""
    for index, each in enumerate(speeds.values(), 1):
        swarm.hear(index, speed(each))
    swarm.later(NEWS_TIMEOUTS * TIMEOUT_S)


def speeds_told(swarm: Swarm, to: int) -> dict[bytes, float]:
    return {each.key: each.speed for each in swarm.told(to, ReplicaIs)}


def by_throughput(num_above: int) -> Swarm:
    """A feeder, and replicas of the last stage."""
    swarm = Swarm(stages=2, failure_timeout_s=TIMEOUT_S, wiring=Wiring.THROUGHPUT)
    for index in range(1, 2 + num_above):
        swarm.join_stage(index, int(index > 1))
        swarm.hold(index)
    return swarm


def test_all_are_told_of_speeds_and_again_only_when_they_change() -> None:
    swarm = by_throughput(2)
    measured(swarm, a=50.0, b=10.0, c=12.0)
    assert speeds_told(swarm, 1) == speeds_told(swarm, 3) == {key(1): 1.0, key(2): 1.0, key(3): 1.2}
    so_far = len(swarm.told(1, ReplicaIs))
    measured(swarm, a=52.0, b=10.5, c=12.5)
    assert len(swarm.told(1, ReplicaIs)) == so_far
    measured(swarm, a=52.0, b=10.5, c=15.0)
    assert speeds_told(swarm, 1)[key(3)] == 15.0 / 10.5


def test_whoever_says_that_it_is_much_faster_than_its_stage_is_not_believed() -> None:
    swarm = by_throughput(3)
    measured(swarm, a=1.0, b=10.0, c=12.0, d=1e9)
    assert speeds_told(swarm, 1)[key(4)] == 2.0
    measured(swarm, a=1.0, b=10.0, c=12.0, d=1e-9)
    assert speeds_told(swarm, 1)[key(4)] == 0.25


@pytest.mark.parametrize("claimed", [1e-310, 1e-9, 5000.0])
def test_of_two_replicas_neither_gets_more_than_twice_the_turns_by_its_word(claimed: float) -> None:
    swarm, wires, replicas = by_throughput(2), Wires(Wiring.THROUGHPUT), Replicas(2)
    measured(swarm, a=1.0, b=claimed)  # the other one did not tell yet
    hear(replicas, swarm)
    paths = [wires.path(replicas, since(swarm, 1), number) for number in range(20)]
    measured(swarm, a=1.0, b=claimed, c=5000.0)
    hear(replicas, swarm)
    paths += [wires.path(replicas, since(swarm, 1), number) for number in range(20, 50)]
    for part in (paths[:20], paths[20:26], paths[26:]):
        counts = Counter(path[1] for path in part if path is not None)
        assert max(counts.values()) <= 2 * min(counts.values()), part
        assert len(counts) == 2


def hear(replicas: Replicas, swarm: Swarm) -> None:
    for each in swarm.told(1, ReplicaIs):
        replicas.hear(each)


def test_the_status_tells_by_stage_how_what_feeders_fed_has_ended() -> None:
    swarm = two_stages()
    for index, stage in ((1, 0), (2, 0), (3, 1)):
        swarm.join_stage(index, stage)
    swarm.hear(1, EndsAre(since(swarm, 1), 90, (0, 3), 1))
    swarm.hear(2, EndsAre(since(swarm, 2), 10, (), 0))
    swarm.hear(2, EndsAre(since(swarm, 1), 70, (5, 5), 5))  # of another membership
    swarm.hear(3, EndsAre(since(swarm, 3), 70, (5, 5), 5))  # it feeds nothing ever
    first, second = swarm.core.status(swarm.now).stages
    assert (first.settled, first.partial, first.lost) == (100, 0, 1)
    assert (second.settled, second.partial, second.lost) == (0, 3, 0)


def test_with_lines_nobody_is_told_of_speeds() -> None:
    swarm = two_stages()
    swarm.join_stage(1, 0)
    swarm.join_stage(2, 1)
    measured(swarm, a=1.0, b=10.0)
    assert set(speeds_told(swarm, 1).values()) == {0.0}


def test_a_feeder_that_has_no_more_is_told_of_and_no_round_waits_for_it() -> None:
    swarm = two_stages()
    for index, stage in ((1, 0), (2, 0), (3, 1)):
        swarm.join_stage(index, stage)
        swarm.hold(index)
    swarm.hear(3, Feeding(since(swarm, 3), False))  # it feeds nothing ever
    swarm.hear(1, Feeding(since(swarm, 1), False))
    swarm.later(NEWS_TIMEOUTS * TIMEOUT_S)
    assert {each.key: each.feeds for each in swarm.told(3, ReplicaIs)} == {
        key(1): False,
        key(2): True,
        key(3): True,
    }
    swarm.ready(2)
    assert not swarm.told(2, Open), "two are needed"
    assert not swarm.told(3, Wanted)
    swarm.hear(1, Feeding(since(swarm, 1), True))
    swarm.later(NEWS_TIMEOUTS * TIMEOUT_S)
    assert [each.feeds for each in swarm.told(3, ReplicaIs) if each.key == key(1)] == [True, False, True]


def test_where_nobody_feeds_any_more_offers_are_asked_for_at_once() -> None:
    swarm = Swarm(stages=2, failure_timeout_s=TIMEOUT_S, min_peers=1)
    for index, stage in ((1, 0), (2, 1), (3, 1)):
        swarm.join_stage(index, stage)
        swarm.hold(index)
    swarm.hear(1, Feeding(since(swarm, 1), False))
    swarm.ready(2, stage=1)
    swarm.later(0.01)
    assert swarm.told(3, Wanted)
