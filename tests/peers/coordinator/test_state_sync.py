"""How newcomers and stragglers get the state, and from whom."""

from __future__ import annotations

import pytest

from peers.coordinator import state_sync
from peers.coordinator.roster import MemberState
from peers.protocol.messages import (
    CatchUp,
    Committed,
    Counted,
    Done,
    Entered,
    Leave,
    NeedState,
    Seed,
    Serve,
)
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained
from tests.peers.coordinator.test_roster import entering
from transport.frames import unpack


def test_the_first_member_seeds_and_the_next_ones_fetch_from_it() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.enter(2)
    assert len(swarm.told(1, Seed)) == 1
    assert not swarm.told(2, Seed)
    assert not swarm.told(2, CatchUp), "nobody holds the state yet"
    swarm.hold(1)
    assert swarm.told(2, CatchUp)[0].donors == (key(1),)


def test_one_that_has_not_caught_up_is_never_a_donor() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.hold(1)
    swarm.enter(2)
    swarm.applied(2, ROOT, b"d" * 32)
    swarm.enter(3)
    assert swarm.told(3, CatchUp)[0].donors == (key(1),)


def test_a_member_with_another_digest_than_most_is_repaired() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2, 3):
        swarm.hear(index, Done(serial, 0, RESULT))
    head = swarm.chain.head
    for index, digest in ((1, b"a" * 32), (2, b"a" * 32), (3, b"b" * 32)):
        swarm.applied(index, head, digest)
    order = swarm.told(3, CatchUp)[-1]
    assert (order.state, order.donors) == (b"a" * 32, (key(1), key(2)))


def test_one_that_cannot_follow_is_told_donors_and_keeps_its_older_head() -> None:
    swarm = trained(2)
    entry = swarm.core.roster.entries[key(2)]
    swarm.hear(2, NeedState("its link was down"))
    assert (entry.member_state, entry.holds_state) == (MemberState.FOLLOWING, True)
    assert swarm.told(2, CatchUp)[-1].donors == (key(1),)
    assert swarm.told(1, Serve)


def test_a_seed_that_leaves_before_it_said_its_state_is_replaced() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.enter(2)
    entries = swarm.core.roster.entries
    assert entries[key(1)].member_state is MemberState.SEEDING
    assert entries[key(2)].waits_for_state
    swarm.hear(1, Leave("done"))
    assert entries[key(2)].member_state is MemberState.SEEDING
    assert swarm.told(2, Seed)


def test_a_seed_that_says_nothing_is_replaced_after_a_while_and_the_next_one_has_longer() -> None:
    swarm = Swarm(grace_s=4.0, failure_timeout_s=2.0)
    for index in (1, 2, 3):
        swarm.enter(index)
    swarm.later(7.9)
    assert not swarm.told(2, Seed)
    swarm.later(0.2)
    assert swarm.told(2, Seed)
    swarm.later(15.9)
    assert not swarm.told(3, Seed)
    swarm.later(0.2)
    assert swarm.told(3, Seed)
    swarm.hold(3)
    swarm.hold(1, b"x" * 32)
    assert swarm.chain.head == ROOT, "who was asked before is too late"
    assert swarm.told(1, CatchUp)[-1].donors == (key(3),)


def test_who_is_no_further_behind_than_records_are_kept_follows_them_and_others_wait() -> None:
    swarm = trained(1)
    state, course = swarm.core.state, swarm.core.state.courses[0]
    entry = swarm.core.roster.entries[key(1)]
    swarm.hear(1, Leave("done"))
    swarm.core.roster.enter(0.0, entry, entering(), 0)
    state_sync.start_following(state, course, 0.0, entry)
    assert entry.waits_for_state, "its head is not of this chain"


@pytest.mark.parametrize("holds_state", [True, False])
def test_who_comes_back_and_is_not_told_the_records_is_told_which_of_them_count_it(holds_state: bool) -> None:
    swarm = trained(2, min_peers=1)
    serial = opened(swarm, 1, 2).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    swarm.hear(2, Leave("its link was down"))
    record = unpack(swarm.told(1, Committed)[0].record)
    assert key(2) in record.members
    swarm.said.clear()
    swarm.enter(2, head=b"o" * 32, holds_state=holds_state)
    said = [message for peer, message in swarm.said if peer == key(2)]
    before = said[: [type(message) for message in said].index(Entered)]  # then it takes all rounds for void
    told = [message for message in before if isinstance(message, Counted)]
    assert told == ([Counted(0, serial, record.hash())] if holds_state else [])


def test_a_lost_head_is_restored_from_the_furthest_state_that_a_member_holds() -> None:
    swarm = trained(2, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2).serial
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    head = swarm.chain.head
    swarm.enter(3, head=ROOT, holds_state=True)
    for index in (1, 2):
        swarm.hear(index, Leave("done"))
    swarm.later(1.0)
    assert swarm.chain.head == head
    swarm.later(4.0)
    record = unpack(swarm.told(3, Committed)[-1].record)
    assert (record.restores, record.parent, record.result) == (True, head, ROOT)
