"""A member whose link ended leaves the open rounds, and nothing else: no membership, no penalty, no state."""

from __future__ import annotations

from peers.protocol.messages import Abort, Committed, Done, MemberGone, Open, Seed
from peers.protocol.record import GENESIS, Record
from peers.protocol.traces import RemovedTrace, RepairedTrace
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, opened, trained
from transport.frames import unpack


def record_of(message: Committed) -> Record:
    found = unpack(message.record)
    assert isinstance(found, Record)
    return found


def commit(swarm: Swarm, *indexes: int) -> Record:
    """These say that they hold the result of the open round."""
    current = swarm.told(indexes[0], Open)[-1]
    for index in indexes:
        swarm.hear(index, Done(current.serial, current.attempt, RESULT))
    return record_of(swarm.told(indexes[0], Committed)[-1])


def test_an_open_round_goes_on_without_whoever_is_out_of_sight() -> None:
    swarm = trained(3)
    before = opened(swarm, 1, 2, 3)
    swarm.core.lose_sight(swarm.now, key(3))
    after = swarm.told(1, Open)[-1]
    assert (after.serial, after.attempt, after.lost) == (before.serial, 1, (2,))
    assert commit(swarm, 1, 2).members == (key(1), key(2))
    assert swarm.told(3, Abort) == [Abort(before.serial, "its link ended and is not back", False)]


def test_membership_and_penalties_are_untouched() -> None:
    swarm = trained(3)
    opened(swarm, 1, 2, 3)
    swarm.core.lose_sight(swarm.now, key(3))
    entry = swarm.core.roster.entries[key(3)]
    assert (entry.active, entry.num_penalties, entry.sits_out_until) == (True, 0, 0)
    assert not [each for each in swarm.traces if isinstance(each, RemovedTrace)]
    assert not swarm.told(1, MemberGone)


def test_no_round_waits_for_it_or_counts_on_it_until_it_is_back() -> None:
    swarm = trained(3)
    swarm.ready(3)
    swarm.core.lose_sight(swarm.now, key(3))
    assert opened(swarm, 1, 2).founders == (key(1), key(2))
    commit(swarm, 1, 2)
    swarm.core.regain_sight(swarm.now, key(3))
    swarm.ready(1)
    swarm.ready(2)
    assert len(swarm.told(1, Open)) == 1, "it is waited for again"
    swarm.ready(3)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2), key(3))


def test_an_offer_made_before_is_good_when_its_author_is_back() -> None:
    swarm = trained(2)
    swarm.ready(2)
    swarm.core.lose_sight(swarm.now, key(2))
    swarm.later(1.0)
    swarm.ready(1)
    assert not swarm.told(1, Open)
    swarm.core.regain_sight(swarm.now, key(2))
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))


def test_a_result_that_all_others_hold_stands_with_what_it_contributed() -> None:
    swarm = trained(3)
    current = opened(swarm, 1, 2, 3)
    for index in (1, 2):
        swarm.hear(index, Done(current.serial, 0, RESULT))
    swarm.core.lose_sight(swarm.now, key(3))
    assert record_of(swarm.told(1, Committed)[-1]).members == (key(1), key(2), key(3))
    assert not [each for each in swarm.traces if isinstance(each, RepairedTrace)]


def test_silence_ends_the_membership_at_the_failure_timeout_and_not_before() -> None:
    swarm = trained(3, failure_timeout_s=6.0)
    swarm.core.lose_sight(swarm.now, key(3))
    swarm.silent[key(3)] = swarm.now
    swarm.later(5.9)
    assert not swarm.told(1, MemberGone)
    swarm.later(0.2)
    assert [gone.key for gone in swarm.told(1, MemberGone)] == [key(3)]


def test_whoever_was_to_give_the_first_state_is_replaced_and_gets_it_like_all_others() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.enter(2)
    assert (len(swarm.told(1, Seed)), len(swarm.told(2, Seed))) == (1, 0)
    swarm.core.lose_sight(swarm.now, key(1))
    assert len(swarm.told(2, Seed)) == 1
    swarm.hold(2)
    assert swarm.chain.head != GENESIS
    assert not swarm.core.roster.entries[key(1)].active


def test_a_seed_that_nobody_can_replace_is_not_named_again_when_it_is_back() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.core.lose_sight(swarm.now, key(1))
    swarm.core.regain_sight(swarm.now, key(1))
    assert len(swarm.told(1, Seed)) == 1
    swarm.hold(1)
    assert swarm.core.roster.entries[key(1)].active
