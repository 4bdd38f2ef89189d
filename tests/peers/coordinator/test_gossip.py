"""Gossip on the coordinator's side: no rounds, the roster in batches, one donor, the end."""

from __future__ import annotations

from peers.coordinator.exchange_mode import ExchangeMode
from peers.coordinator.gossip import GossipMode
from peers.protocol.messages import (
    CatchUp,
    Finished,
    Leave,
    MemberActive,
    MemberIs,
    Open,
    RosterBatch,
)
from peers.protocol.naming import NameState
from peers.protocol.roster_feed import messages_in
from tests.peers.coordinator.coordinator_kit import Swarm, key, speed
from transport.limits import LIMITS


def test_gossip_opens_no_rounds_introduces_members_and_ends_when_all_have_taken_their_steps() -> None:
    swarm = Swarm(gossips=True, rounds=5)
    for index in range(2):
        swarm.enter(index)
    for index in range(2):
        swarm.hold(index, digest=bytes([1 + index]) * 32)
        swarm.ready(index)
    assert not swarm.told(0, Open)
    for index in range(2):
        news = [each for told in swarm.told(index, RosterBatch) for each in messages_in(told.batch)]
        assert {each.key for each in news if isinstance(each, MemberActive)} == {key(0), key(1)}
    swarm.hear(0, speed(1.0, rounds=5))
    assert not swarm.told(0, Finished)
    swarm.hear(1, speed(1.0, rounds=5))
    assert swarm.told(0, Finished)
    assert swarm.core.finished


def test_a_gossip_joiner_copies_one_member_as_it_is_now() -> None:
    swarm = Swarm(gossips=True)
    for index in range(2):
        swarm.enter(index)
        swarm.hold(index, digest=bytes([1 + index]) * 32)
    swarm.enter(2)
    (order,) = swarm.told(2, CatchUp)
    assert len(order.donors) == 1
    donor = 0 if order.donors[0] == key(0) else 1
    assert order.state == bytes([1 + donor]) * 32


def test_gossip_compares_no_digests_and_offers_wait_for_no_round() -> None:
    swarm = Swarm(gossips=True)
    for index in range(3):
        swarm.enter(index)
        swarm.hold(index, digest=bytes([index % 2]) * 32)
        swarm.ready(index)
    course = swarm.core.state.courses[0]
    mode: ExchangeMode = swarm.core.state.mode
    assert isinstance(mode, GossipMode)
    assert all(entry.active for entry in swarm.core.roster.entered())
    assert (mode.dissenters(course, 0), course.ready_since) == ([], {})
    assert not any(entry.ready for entry in swarm.core.roster.entered())
    assert mode.max_members == LIMITS.gossip_members


def test_nobody_has_to_hash_its_state_since_every_one_is_another() -> None:
    swarm = Swarm(gossips=True)
    for index in range(3):
        swarm.enter(index)
    for index in range(3):
        swarm.hold(index, digest=bytes([1 + index]) * 32)
        swarm.applied(index, swarm.core.state.courses[0].chain.base(0), bytes([5 + index]) * 32)
    assert not [told for index in range(3) for told in swarm.told(index, NameState)]


def test_the_run_ends_with_the_slowest_whoever_that_is() -> None:
    swarm = Swarm(gossips=True, rounds=9)
    for index in range(3):
        swarm.enter(index)
        swarm.hold(index, digest=bytes([1 + index]) * 32)
    taken = [0, 0, 0]
    for index in (0, 1, 2, 0, 2, 1, 1, 0, 2, 0, 2):
        taken[index] += 1
        swarm.hear(index, speed(1.0, rounds=taken[index]))
        assert swarm.core.state.num_rounds == min(taken)
    swarm.hear(1, Leave("done"))
    swarm.hear(0, speed(1.0, rounds=9))
    swarm.hear(2, speed(1.0, rounds=9))
    assert swarm.core.finished


def test_a_gossip_donor_is_another_one_each_time() -> None:
    swarm = Swarm(gossips=True)
    for index in range(2):
        swarm.enter(index)
        swarm.hold(index, digest=bytes([1 + index]) * 32)
    for index in (2, 3):
        swarm.enter(index)
    donors = {swarm.told(index, CatchUp)[0].donors for index in (2, 3)}
    assert donors == {(key(0),), (key(1),)}


def test_who_enters_a_finished_gossip_run_is_told_at_once() -> None:
    swarm = Swarm(gossips=True, rounds=5)
    swarm.enter(0)
    swarm.hold(0)
    swarm.hear(0, speed(1.0, rounds=5))
    assert swarm.core.state.num_rounds == 5
    swarm.enter(1, holds_state=True)
    assert swarm.told(1, Finished)


def test_a_newcomer_learns_of_all_also_after_many_have_come_and_gone() -> None:
    swarm = Swarm(gossips=True)
    for index in (0, 1):
        swarm.enter(index)
        swarm.hold(index)
    for _ in range(60):
        swarm.enter(2)
        swarm.hear(2, Leave("done"))
    swarm.enter(3)
    batches = swarm.told(3, RosterBatch)
    news = [each for told in batches for each in messages_in(told.batch)]
    assert {key(0), key(1)} <= {each.key for each in news if isinstance(each, MemberIs)}
    assert {each.key for each in news if isinstance(each, MemberActive)} == {key(0), key(1)}
    assert len(batches) < 40, "it need not read all that ever was"


def test_of_several_stages_each_takes_its_own_steps_and_the_end_is_told_when_all_have_theirs() -> None:
    swarm = Swarm(gossips=True, stages=2, rounds=2, min_peers=1)
    for index, stage in ((1, 0), (2, 1)):
        swarm.join_stage(index, stage)
        swarm.hold(index, bytes([stage]) * 32)
        swarm.hear(index, speed(1.0, rounds=1))
    swarm.hear(1, speed(1.0, rounds=2))
    assert [course.num_steps for course in swarm.core.state.courses.values()] == [2, 1]
    assert not swarm.told(1, Finished)
    again = Swarm(swarm.journal, gossips=True, stages=2, rounds=2, min_peers=1)
    assert [course.num_steps for course in again.core.state.courses.values()] == [2, 1]
    swarm.hear(2, speed(1.0, rounds=2))
    assert [swarm.told(index, Finished) for index in (1, 2)] == [[Finished(2)], [Finished(2)]]
