"""What a member cannot use is not named to it again; another state, or another donor, is."""

from __future__ import annotations

from peers.coordinator import unusable
from peers.coordinator.roster import Entry
from peers.protocol.fields import MAX_FRAGMENTS, MAX_MEMBERS
from peers.protocol.messages import CatchUp, CaughtUp, Done, NeedState, Seed, Unusable
from peers.protocol.record import GENESIS
from peers.protocol.traces import UnusableTrace
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained

STATE = b"d" * 32


def joined() -> Swarm:
    """Two members, and a third that was named both as donors."""
    swarm = trained(2)
    swarm.enter(3)
    assert [order.donors for order in swarm.told(3, CatchUp)] == [(key(1), key(2))]
    return swarm


def refuse(swarm: Swarm, *peers: bytes) -> None:
    swarm.hear(3, Unusable(0, STATE, peers, "it is of no use"))
    swarm.hear(3, NeedState("it is of no use"))


def test_a_state_that_does_not_load_is_offered_again_only_when_it_is_another_one() -> None:
    swarm = joined()
    refuse(swarm)
    for _ in range(5):
        swarm.later(1.0)
    assert len(swarm.told(3, CatchUp)) == 1
    assert swarm.traces.count(UnusableTrace(key(3), "w3", 0, (), "it is of no use")) == 1
    round_ = opened(swarm, 1, 2)
    for index in (1, 2):
        swarm.hear(index, Done(round_.serial, 0, RESULT))
    for index in (1, 2):
        swarm.hold(index, swarm.chain.head, b"e" * 32)
    assert [order.state for order in swarm.told(3, CatchUp)] == [STATE, b"e" * 32]


def test_a_donor_that_hands_out_other_bytes_is_not_named_again_and_the_others_are() -> None:
    swarm = joined()
    refuse(swarm, key(1))
    assert [order.donors for order in swarm.told(3, CatchUp)][1:] == [(key(2),)]
    refuse(swarm, key(2))
    for _ in range(5):
        swarm.later(1.0)
    assert len(swarm.told(3, CatchUp)) == 2


def test_it_is_a_word_about_the_member_alone() -> None:
    swarm = joined()
    refuse(swarm)
    swarm.enter(4)
    assert [order.donors for order in swarm.told(4, CatchUp)] == [(key(1), key(2))]
    swarm.greet(3)
    assert len(swarm.told(3, CatchUp)) == 2, "a fresh membership begins without it"


def test_what_is_kept_of_it_is_bounded() -> None:
    entry = Entry(key(1), "w1")
    for number in range(3 * MAX_FRAGMENTS):
        peers = tuple(number.to_bytes(31, "big") + bytes([i]) for i in range(MAX_MEMBERS))
        unusable.note(entry, 0.0, 1.0, Unusable(0, number.to_bytes(32, "big"), peers, ""))
        unusable.note(entry, 0.0, 1.0, Unusable(0, number.to_bytes(32, "big"), (key(9),), ""))
    assert len(entry.refusals.by_blob) == MAX_FRAGMENTS
    assert max(len(peers) for peers, _ in entry.refusals.by_blob.values()) == MAX_MEMBERS


def test_the_same_state_is_offered_again_after_pauses_that_double_until_it_can_be_used() -> None:
    swarm = joined()
    for pause in (6.0, 12.0, 24.0):
        refuse(swarm)
        before = len(swarm.told(3, CatchUp))
        swarm.later(pause - 1.0)
        assert len(swarm.told(3, CatchUp)) == before
        swarm.later(1.0)
        assert len(swarm.told(3, CatchUp)) == before + 1
    swarm.hold(3)
    assert swarm.core.roster.entries[key(3)].active
    assert swarm.core.roster.entries[key(3)].refusals.num_in_a_row == 0


def test_where_most_cannot_use_the_first_state_another_member_gives_it() -> None:
    swarm = trained(1)
    for index in (2, 3, 4):
        swarm.enter(index)
    for index in (2, 3):
        assert swarm.chain.head == ROOT
        swarm.hear(index, Unusable(0, STATE, (key(1),), "other bytes"))
        swarm.hear(index, NeedState("other bytes"))
    assert swarm.chain.head == GENESIS
    assert [each for each in range(1, 5) if swarm.told(each, Seed)] == [1, 2], "not the first one again"
    swarm.applied(2, b"1" * 32, b"e" * 32)
    swarm.hear(2, CaughtUp(b"1" * 32))
    assert swarm.chain.head == b"1" * 32
    for index in (1, 3, 4):
        assert swarm.told(index, CatchUp)[-1].donors == (key(2),)
    assert Swarm(swarm.journal).chain.head == b"1" * 32


def test_where_few_cannot_use_the_first_state_it_stands() -> None:
    swarm = trained(2)
    for index in (3, 4):
        swarm.enter(index)
    swarm.hear(3, Unusable(0, STATE, (), "it does not load"))
    swarm.hear(3, NeedState("it does not load"))
    assert swarm.chain.head == ROOT


def test_where_most_never_get_the_first_state_another_member_gives_it() -> None:
    swarm = trained(1)
    for index in (2, 3, 4):
        swarm.enter(index)
    for _ in range(unusable.MAX_IN_VAIN):
        assert not any(swarm.told(index, Seed) for index in (2, 3, 4))
        for index in (2, 3):
            swarm.hear(index, NeedState("no donor has the state any more"))
    assert [index for index in (2, 3, 4) if swarm.told(index, Seed)] == [2]
    assert swarm.chain.head == GENESIS
