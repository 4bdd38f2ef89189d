"""`loop.buffers_offer`: buffers are offered when they are wanted, weighed by tokens, and waited for."""

from __future__ import annotations

import pytest

from diloco.loop.buffers_offer import BuffersOffer
from diloco.loop.outer_loop import OuterLoop
from peers.protocol.commands import ConfirmApplied, ConfirmLoaded, Offer, TakeBack
from peers.protocol.events import (
    BecameActive,
    CoordinatorLost,
    FellBehind,
    OfferWanted,
    Restored,
    RoundAborted,
    RoundOpened,
    RunFinished,
    StateFetched,
)
from peers.protocol.record import GENESIS
from tests.diloco.loop.kit import WAIT_S, Recorder, committed, record, schedule, step
from transport.collectives.reducer import NumpyReducer


@pytest.fixture
def replica() -> Recorder:
    return Recorder(tells_offers=True)


@pytest.fixture
def loop(replica: Recorder) -> OuterLoop:
    """One fragment with H = 4, and buffers."""
    made = OuterLoop(schedule(has_buffers=True), WAIT_S, replica)
    made.handle(0.0, BecameActive(GENESIS, 0))
    return made


def offers(loop: OuterLoop, now: float = 0.0) -> list[tuple[int, int, int]]:
    """Fragment, tokens and weight of what is offered now, which the member takes."""
    made = [each for each in loop.due(now) if isinstance(each, Offer)]
    for each in made:
        loop.told(each, True)
    return [(each.fragment, each.tokens, each.weight) for each in made]


def test_they_are_offered_once_they_are_wanted_by_the_tokens_that_went_by_them(loop: OuterLoop) -> None:
    loop.count(10, steps=3)
    assert offers(loop) == []
    loop.handle(0.0, OfferWanted(1))
    assert loop.quiet_steps() == 1
    assert offers(loop) == [(1, 0, 10)]
    assert loop.waits(1.0)
    assert loop.patience_ends(1.0) == WAIT_S


def test_the_mean_is_applied_and_lands_and_tokens_count_anew(loop: OuterLoop, replica: Recorder) -> None:
    loop.count(8)
    loop.handle(0.0, OfferWanted(1))
    offers(loop)
    (answer,) = loop.handle(1.0, committed(1, fragment=1))
    assert isinstance(answer, ConfirmApplied)
    assert replica.calls[-2:] == [("apply", 1, True), ("land", 1, True, True)]
    assert not loop.waits(1.0)
    loop.count(3)
    assert offers(loop) == [], "nobody wants them again"
    loop.handle(2.0, OfferWanted(1))
    assert offers(loop, 2.0) == [(1, 0, 3)], "of a run that was made longer"


def test_who_did_not_offer_takes_the_mean_too(loop: OuterLoop, replica: Recorder) -> None:
    loop.handle(0.0, OfferWanted(1))
    loop.handle(1.0, committed(None, fragment=1))
    assert replica.calls[-2:] == [("apply", 1, False), ("land", 1, False, True)]
    loop.count(1)
    assert offers(loop) == []


def test_an_offer_for_which_nobody_comes_is_taken_back_and_made_again_after_a_step(loop: OuterLoop) -> None:
    loop.count(8)
    loop.handle(0.0, OfferWanted(1))
    offers(loop)
    assert not loop.waits(WAIT_S)
    (back,) = loop.due(WAIT_S)
    assert back == TakeBack(1)
    loop.told(back, True)
    assert offers(loop, WAIT_S) == []
    loop.count(2)
    assert offers(loop, WAIT_S) == [(1, 0, 10)]
    loop.handle(WAIT_S, RoundOpened(5, 0, 1, ()))
    assert loop.waits(4 * WAIT_S), "an open round has bounds of its own"
    loop.handle(WAIT_S, RoundAborted(1, 5, "a member is gone", True))
    assert not loop.waits(2 * WAIT_S)


def test_what_is_not_finite_begins_anew_and_counts_for_one_token(replica: Recorder) -> None:
    loop = OuterLoop(schedule(has_buffers=True), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    loop.count(8)
    replica.infinite.add(1)
    loop.handle(0.0, OfferWanted(1))
    replica_discard = replica.discard
    replica.discard = lambda fragment: (replica.infinite.discard(fragment), replica_discard(fragment))[0]  # type: ignore[method-assign,assignment]
    assert offers(loop) == [(1, 0, 1)]
    (lost,) = loop.setbacks.take()
    assert (lost.fragment, lost.tokens, loop.setbacks.count) == (1, 0, 1)


def at_the_end(replica: Recorder) -> OuterLoop:
    """It has seen the only commit of its run, and its training loop may have no step left."""
    loop = OuterLoop(schedule(has_buffers=True), WAIT_S, replica, rounds=1)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    step(loop, 4)
    loop.handle(1.0, committed(1))
    return loop


def test_behind_the_last_round_it_waits_to_be_asked_but_not_for_ever(replica: Recorder) -> None:
    loop = at_the_end(replica)
    assert loop.waits(1.0)
    assert loop.patience_ends(1.0) == 1.0 + WAIT_S
    assert not loop.waits(1.0 + WAIT_S)
    loop.handle(2.0, OfferWanted(1))
    assert not loop.waits(2.0), "nothing is offered yet"
    assert offers(loop, 2.0) == [(1, 0, 8)]
    assert loop.waits(2.0)


@pytest.mark.parametrize(
    "event",
    [RunFinished(1), CoordinatorLost(9.0), FellBehind("away"), BecameActive(GENESIS, 0), Restored(record())],
)
def test_what_ends_the_run_or_goes_on_with_it_ends_that_wait(replica: Recorder, event: object) -> None:
    loop = at_the_end(replica)
    loop.handle(2.0, event)
    assert not loop.waits(2.0)


def test_before_the_last_round_and_in_a_run_that_was_made_longer_nobody_waits(replica: Recorder) -> None:
    loop = OuterLoop(schedule(has_buffers=True), WAIT_S, replica, rounds=2)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    loop.handle(1.0, committed(None))
    assert not loop.waits(1.0)
    loop = at_the_end(replica)
    loop.follow(WAIT_S, 2)
    assert not loop.waits(1.0)


def test_a_state_that_was_fetched_has_seen_no_tokens_here(loop: OuterLoop) -> None:
    loop.count(8)
    (answer,) = loop.handle(0.0, StateFetched(1, GENESIS, bytearray()))
    assert isinstance(answer, ConfirmLoaded)
    loop.handle(0.0, OfferWanted(1))
    assert offers(loop) == [(1, 0, 1)]


def test_after_entering_anew_nothing_is_wanted_until_it_is_asked_for(loop: OuterLoop) -> None:
    loop.handle(0.0, OfferWanted(1))
    loop.handle(0.0, BecameActive(GENESIS, 0))
    assert offers(loop) == []


def test_tokens_are_kept_over_a_restart(loop: OuterLoop, replica: Recorder) -> None:
    loop.count(7)
    other = OuterLoop(schedule(has_buffers=True), WAIT_S, replica)
    other.load_state_dict(loop.state_dict(), lambda fragment: NumpyReducer(1))
    other.handle(0.0, BecameActive(GENESIS, 0))
    other.handle(0.0, OfferWanted(1))
    assert offers(other) == [(1, 0, 7)]


def test_of_a_model_without_any_nothing_is_about_them(replica: Recorder) -> None:
    none = BuffersOffer(None, WAIT_S, replica, OuterLoop(schedule(), WAIT_S, replica).setbacks)
    assert not none.is_about(OfferWanted(0))
    assert not none.waits(0.0)
    assert none.due(0.0, True) == []
