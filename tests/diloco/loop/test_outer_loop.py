"""The outer loop: when a worker offers, waits, gives up, applies and rebases; and where its tokens go."""

from __future__ import annotations

import dataclasses

import pytest

from diloco.errors import StateError
from diloco.loop.outer_loop import OuterLoop
from diloco.loop.weights import weight_of
from diloco.methods import method
from diloco.methods.schedule import Schedule
from peers.protocol.commands import (
    ConfirmApplied,
    ConfirmCaptured,
    ConfirmLoaded,
    Offer,
    RefuseLoaded,
    Swap,
    TakeBack,
)
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    Fate,
    FellBehind,
    OfferWanted,
    PaceSet,
    Restored,
    RoundOpened,
    RunFinished,
    StateFetched,
    VersionExpected,
)
from peers.protocol.record import GENESIS
from tests.diloco.loop.kit import WAIT_S, Recorder, active_loop, committed, record, schedule, step
from transport.collectives.reducer import NumpyReducer


def test_it_offers_after_h_steps_with_their_tokens(loop: OuterLoop) -> None:
    assert step(loop, 3) == []
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.tokens == 8
    assert loop.waits(0.0)


def test_it_offers_nothing_before_it_holds_the_shared_state(replica: Recorder) -> None:
    assert step(OuterLoop(schedule(), WAIT_S, replica), 9) == []


def test_after_a_commit_it_applies_and_begins_again(loop: OuterLoop, replica: Recorder) -> None:
    step(loop, 4)
    assert loop.handle(0.0, committed(1)) == [ConfirmApplied(record(), bytes(16))]
    assert replica.calls == [("apply", 0, True), ("land", 0, True, True)]
    assert replica.shares == [1.0]
    assert not loop.waits(0.0)
    assert len(step(loop, 4)) == 1


def test_what_was_trained_after_the_offer_is_kept_on_top_and_offered_next(
    loop: OuterLoop, replica: Recorder
) -> None:
    step(loop, 4)
    step(loop, 3)
    loop.handle(0.0, committed(1))
    assert replica.calls == [("apply", 0, True), ("land", 0, True, False)]
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.tokens == 8


def test_it_waits_no_longer_than_the_bound_and_then_trains_on(loop: OuterLoop) -> None:
    step(loop, 4)
    assert loop.waits(WAIT_S - 1)
    assert not loop.waits(WAIT_S + 1)
    assert loop.due(WAIT_S + 1) == [TakeBack(0)]


def test_an_open_round_is_never_taken_back(loop: OuterLoop) -> None:
    step(loop, 4)
    loop.handle(0.0, RoundOpened(7, 0, 0, ()))
    loop.handle(0.0, CoordinatorLost(9.0))
    assert loop.due(10_000.0) == []
    assert not loop.waits(10_000.0)


def test_without_a_coordinator_it_trains_on_and_offers_everything_later(loop: OuterLoop) -> None:
    step(loop, 4)
    loop.handle(0.0, CoordinatorLost(5.0))
    assert not loop.waits(0.0)
    assert step(loop, 6) == [TakeBack(0)]
    loop.handle(0.0, CoordinatorBack())
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.tokens == 2 * 11


def test_a_late_contribution_is_given_up_with_what_followed_it(loop: OuterLoop, replica: Recorder) -> None:
    step(loop, 6)
    loop.handle(0.0, ContributionEnded(0, 1, 8, Fate.LATE, "late"))
    assert replica.calls == [("discard", 0)]
    assert loop.tokens_unoffered == 4
    assert len(step(loop, 4)) == 1


def test_what_is_applied_without_its_result_counts_once_and_the_next_state_begins_anew(
    loop: OuterLoop, replica: Recorder
) -> None:
    step(loop, 6)
    loop.handle(0.0, ContributionEnded(0, 1, 8, Fate.APPLIED, "head", without_result=True))
    loop.handle(0.0, FellBehind("the shared state is fetched anew"))
    assert not loop.waits(0.0)
    loop.handle(0.0, StateFetched(0, GENESIS, bytearray()))
    assert loop.tokens_unoffered == 4, "eight are applied"
    assert replica.calls == [("discard", 0), ("load", 0)]


def test_a_round_without_it_keeps_its_progress_and_puts_it_in_step_with_the_others(
    loop: OuterLoop, replica: Recorder
) -> None:
    step(loop, 2)
    loop.handle(0.0, committed(None))
    assert replica.calls == [("apply", 0, False), ("land", 0, False, False)]
    assert step(loop, 3) == []
    offer = step(loop, 1)[0]  # when those who were in the round offer next
    assert isinstance(offer, Offer)
    assert offer.tokens == 12


def test_one_that_is_slower_than_rounds_comes_to_offer_nevertheless(loop: OuterLoop) -> None:
    step(loop, 1)
    for _ in range(3):
        loop.handle(0.0, committed(None))
        assert step(loop, 1) == []
    loop.handle(0.0, committed(None))
    assert len(step(loop, 1)) == 1


def test_a_round_without_a_newcomer_puts_all_its_fragments_in_step(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=4)
    loop.handle(0.0, committed(None, fragment=2))
    offers = [[each.fragment for each in step(loop, 1) if isinstance(each, Offer)] for _ in range(4)]
    assert offers == [[3], [0], [1], [2]]


def test_a_round_with_a_newcomer_puts_its_other_fragments_in_step(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2)
    step(loop, 1)
    loop.handle(0.0, committed(None, fragment=1))
    loop.handle(0.0, OfferWanted(0))
    assert [each.fragment for each in loop.due(0.0) if isinstance(each, Offer)] == [0]
    loop.handle(0.0, committed(1, fragment=0))
    assert step(loop, 1) == []
    assert [each.fragment for each in step(loop, 1) if isinstance(each, Offer)] == [1]


def test_a_snapshot_that_is_to_be_offered_again_is_not_put_off(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2)
    step(loop, 2)
    loop.progress[0].keep_snapshot(again_in=1)
    loop.handle(0.0, committed(None, fragment=1))
    assert [each.fragment for each in step(loop, 1) if isinstance(each, Offer)] == [0]


def test_it_offers_early_what_others_wait_for(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2)
    step(loop, 2)  # the first fragment is offered
    for fragment in range(2):
        assert loop.handle(0.0, OfferWanted(fragment)) == []
    (offer,) = loop.due(0.0)
    assert isinstance(offer, Offer)
    assert (offer.fragment, offer.tokens) == (1, 4)


def test_far_behind_it_follows_before_it_trains_on(loop: OuterLoop) -> None:
    loop.handle(0.0, committed(None, behind=2))
    assert loop.waits(0.0)
    assert loop.patience_ends(0.0) == WAIT_S
    assert not loop.waits(WAIT_S)  # nor for ever
    loop.handle(WAIT_S, committed(None, behind=1))
    assert not loop.waits(WAIT_S)
    loop.handle(WAIT_S, committed(None, behind=2))
    loop.handle(WAIT_S, FellBehind("the shared state is fetched anew"))
    assert not loop.waits(WAIT_S)


def test_an_offer_that_is_not_taken_is_made_again_at_the_next_step(loop: OuterLoop) -> None:
    step(loop, 3)
    loop.count(2)
    loop.told(loop.due(0.0)[0], False)
    assert not loop.waits(0.0)
    loop.count(2)
    assert isinstance(loop.due(0.0)[0], Offer)


def test_an_offer_that_is_not_taken_is_made_again_at_the_next_step_however_large_h_is(
    replica: Recorder,
) -> None:
    replica.every = 100
    loop = OuterLoop(Schedule((100,), (100,), 0, False), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    assert step(loop, 99) == []
    for tokens in (200, 202, 204):
        loop.count(2)
        (offer,) = loop.due(0.0)
        assert isinstance(offer, Offer)
        assert offer.tokens == tokens, "nothing of it is lost"
        assert loop.quiet_steps() == 1
        loop.told(offer, False)
        assert loop.due(0.0) == [], "not before the next step"
    assert loop.tokens_unoffered == 0


def test_a_swap_that_is_not_taken_is_made_again_at_the_next_step(replica: Recorder) -> None:
    replica.every = 100
    loop = OuterLoop(Schedule((100,), (100,), 0, False, gossips=True), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    step(loop, 99)
    for tokens in (200, 202):
        loop.count(2)
        (swap,) = loop.due(0.0)
        assert isinstance(swap, Swap)
        assert swap.tokens == tokens
        loop.told(swap, False)


@pytest.mark.parametrize("then", ["the commit", "another state", "a state gone back to"])
def test_no_contribution_is_made_while_a_newer_version_is_on_its_way(then: str, replica: Recorder) -> None:
    replica.tells_offers = True
    loop = active_loop(replica, num_fragments=2)
    step(loop, 1)
    loop.count(2)
    loop.told(loop.due(0.0)[0], False)
    loop.handle(0.0, VersionExpected(0))
    assert [c.fragment for c in step(loop, 3) if isinstance(c, Offer)] == [1]
    assert replica.calls == [("offer", 0), ("offer", 1)]
    assert loop.progress[0].tokens == 10
    if then == "the commit":
        loop.handle(0.0, committed(None))
        assert loop.tokens_unoffered == 0
    elif then == "another state":
        loop.handle(0.0, StateFetched(0, GENESIS, bytearray()))
    else:
        loop.handle(0.0, Restored(record()))
    assert 0 in [c.fragment for c in step(loop, 4) if isinstance(c, Offer)]


def test_fragments_are_staggered_over_h_and_applied_each_by_itself(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=3)
    offered = [[c.fragment for c in step(loop, 1) if isinstance(c, Offer)] for _ in range(4)]
    assert offered == [[0], [1], [], [2]]
    loop.handle(0.0, committed(1, fragment=1))
    assert loop.waits(0.0)
    assert replica.calls == [("apply", 1, True), ("land", 1, True, False)]


def test_where_rounds_do_not_wait_an_offer_that_missed_one_is_made_again_with_all_its_tokens(
    replica: Recorder,
) -> None:
    loop = active_loop(replica, rebases=True)
    step(loop, 4)
    loop.handle(0.0, committed(None))
    (offer,) = loop.due(0.0)
    assert isinstance(offer, Offer)
    assert offer.tokens == 8
    assert replica.calls == [("apply", 0, False), ("land", 0, False, False)]


def test_a_slow_worker_offers_after_fewer_steps(replica: Recorder) -> None:
    loop = active_loop(replica)
    step(loop, 4)
    loop.speed = 52.0
    loop.handle(0.0, PaceSet(100.0))
    loop.handle(0.0, committed(1))
    assert step(loop, 1) == []
    assert [type(c) for c in step(loop, 1)] == [Offer], (
        "4 * 0.52 steps, the noise of which counts for nothing"
    )


def test_a_pace_that_is_set_half_way_holds_for_the_offer_to_come(replica: Recorder) -> None:
    loop = active_loop(replica)
    step(loop, 1)
    loop.speed = 50.0
    loop.handle(0.0, PaceSet(100.0))
    assert [type(c) for c in step(loop, 1)] == [Offer], "2 of 4 steps"


def test_a_pace_changes_nothing_for_what_is_offered(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    step(loop, 4)
    loop.speed = 50.0
    loop.handle(0.0, PaceSet(100.0))
    assert step(loop, 1) == []
    assert loop.progress[0].offered is not None


def test_h_follows_what_the_numbers_say(replica: Recorder) -> None:
    loop = active_loop(replica)
    step(loop, 4)
    replica.every = 1
    loop.handle(0.0, committed(1))
    assert [type(c) for c in step(loop, 1)] == [Offer]


@pytest.mark.parametrize(("weights", "expected"), [("tokens", 8), ("equal", 1), ("tokens_rate", 16)])
def test_weights_are_tokens_or_all_the_same_or_tokens_times_tokens_per_step(
    weights: str, expected: int
) -> None:
    assert weight_of(dataclasses.replace(schedule(), weights=weights), 8, 4) == expected  # type: ignore[arg-type]


def test_a_seed_captures_and_a_joiner_loads_every_fragment(replica: Recorder) -> None:
    loop = OuterLoop(schedule(2), WAIT_S, replica)
    assert loop.handle(0.0, BecomeSeed()) == [
        ConfirmCaptured(0, bytes(32), bytes(16)),
        ConfirmCaptured(1, b"\x01" * 32, b"\x01" * 16),
    ]
    fetched = loop.handle(0.0, StateFetched(1, GENESIS, bytearray(8)))
    assert fetched == [ConfirmLoaded(1, GENESIS, b"\x01" * 16)]
    assert replica.calls == [("load", 1)]


def test_a_finished_run_waits_for_nothing(loop: OuterLoop) -> None:
    step(loop, 4)
    loop.handle(0.0, RunFinished(5))
    assert loop.finished
    assert not loop.waits(0.0)


@pytest.mark.parametrize(
    ("weights", "expected"), [("tokens", 600), ("equal", 1), ("tokens_rate", 600 * 600 // 3)]
)
def test_a_contribution_weighs_its_tokens_one_or_tokens_times_tokens_per_step(
    weights: str, expected: int
) -> None:
    assert weight_of(Schedule.of(method("diloco", weights=weights)), tokens=600, steps=3) == expected


def test_a_contribution_without_steps_has_a_weight_too() -> None:
    assert weight_of(Schedule.of(method("decoupled")), tokens=5, steps=0) == 25


def test_a_state_that_does_not_load_is_refused_and_the_worker_trains_on(
    replica: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = active_loop(replica, num_fragments=1)
    step(loop, 2)

    def fail(fragment: int, data: bytearray) -> None:
        raise StateError("3 values are not finite")

    monkeypatch.setattr(replica, "load", fail)
    told = loop.handle(0.0, StateFetched(0, GENESIS, bytearray()))
    assert told == [RefuseLoaded(0, GENESIS, "3 values are not finite")]
    assert loop.tokens_unoffered == 0
    assert step(loop, 2), "what was trained before is offered with the rest"


def test_a_later_process_goes_on_where_this_one_is(loop: OuterLoop, replica: Recorder) -> None:
    step(loop, 3)
    later = OuterLoop(schedule(), WAIT_S, replica)
    later.load_state_dict(loop.state_dict(), lambda fragment: NumpyReducer(1))
    later.handle(0.0, BecameActive(GENESIS, 0))
    offer = step(later, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.tokens == 8


def test_what_an_earlier_life_has_in_a_record_counts_once(loop: OuterLoop, replica: Recorder) -> None:
    step(loop, 3)
    loop.forget(0)
    assert loop.tokens_unoffered == 6
    assert loop.progress[0].steps == 0
    assert ("discard", 0) in replica.calls
