"""The outer loop where results have steps to come, or a whole outer step: what lands, and on top of what."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.loop.leaving import offer_all
from diloco.loop.outer_loop import OuterLoop
from diloco.methods.schedule import Schedule
from peers.protocol.commands import Offer
from peers.protocol.events import BecameActive, CoordinatorLost, OfferWanted
from peers.protocol.record import GENESIS
from tests.diloco.loop.kit import WAIT_S, Recorder, active_loop, committed, step


def test_with_a_delay_it_is_in_step_with_the_last_of_the_others(replica: Recorder) -> None:
    loop = active_loop(replica, delay=3)
    step(loop, 2)
    loop.handle(0.0, committed(None))
    assert len(step(loop, 1)) == 1
    step(loop, 2)
    assert not loop.waits(0.0)


def test_with_a_delay_steps_since_its_own_offer_count(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2, delay=1)
    loop.handle(0.0, OfferWanted(0))
    step(loop, 2)
    assert loop.progress[0].offered_steps == 1
    loop.handle(0.0, committed(1, fragment=0))
    assert [each.fragment for each in step(loop, 1) if isinstance(each, Offer)] == [1]


def test_nothing_is_offered_early_before_its_result_has_landed(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    loop.handle(0.0, OfferWanted(0))
    assert loop.due(0.0) == []  # nothing is trained
    assert len(step(loop, 1)) == 1
    loop.handle(0.0, committed(1))
    loop.handle(0.0, OfferWanted(0))
    assert step(loop, 1) == []


def test_with_a_delay_it_trains_on_until_the_result_is_due(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    step(loop, 4)
    assert not loop.waits(0.0)
    step(loop, 1)
    loop.handle(0.0, committed(1))
    assert replica.calls == [("apply", 0, True)]
    step(loop, 1)
    assert replica.calls[1:] == [("land", 0, True, True)]
    assert [type(c) for c in step(loop, 2)] == [Offer], "H counts from the offer, not from the landing"


def test_it_waits_for_a_result_only_once_that_is_later_than_its_delay(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    step(loop, 5)
    assert not loop.waits(0.0)
    step(loop, 1)
    assert loop.waits(0.0)
    loop.handle(0.0, committed(1))
    assert not loop.waits(0.0)
    assert replica.calls == [("apply", 0, True), ("land", 0, True, True)]


def test_an_overlap_of_a_whole_outer_step_offers_before_what_it_offers_is_wiped_out(
    replica: Recorder,
) -> None:
    replica.tells_offers = True
    loop = active_loop(replica, delay=4, offers_before_landing=True)
    step(loop, 4)
    assert replica.calls == [("offer", 0), ("land", 0, False, True)]
    step(loop, 2)
    loop.handle(0.0, committed(1))
    step(loop, 2)
    assert replica.calls[2:] == [("apply", 0, True), ("offer", 0), ("land", 0, True, True)]


@pytest.mark.parametrize("landing", [True, False])
def test_an_overlapped_offer_that_is_not_taken_lands_nothing_and_loses_nothing(
    landing: bool, replica: Recorder
) -> None:
    replica.tells_offers = True
    loop = active_loop(replica, delay=4, offers_before_landing=True)
    step(loop, 3)
    if landing:
        step(loop, 1)
        loop.handle(0.0, committed(1))
        step(loop, 3)
    replica.calls.clear()
    for tokens in (8, 10, 12):
        loop.count(2)
        (offer,) = loop.due(0.0)
        assert isinstance(offer, Offer)
        assert offer.tokens == tokens
        assert replica.calls == [("offer", 0)]
        loop.told(offer, tokens == 12)
        assert replica.calls[1:] == ([("land", 0, landing, True)] if tokens == 12 else [])
        replica.calls.clear()
    assert loop.tokens_unoffered == 0
    assert loop.progress[0].landing is None


def test_an_overlapped_offer_that_a_round_went_on_without_is_counted_and_not_offered_again(
    replica: Recorder,
) -> None:
    loop = active_loop(replica, delay=4, offers_before_landing=True, rebases=True)
    step(loop, 5)
    loop.handle(0.0, committed(None))  # the member took the offer back
    assert loop.tokens_unoffered == 8, "its landing wiped it out"
    assert [(each.tokens, each.steps) for each in loop.progress] == [(2, 1)]


def test_without_a_coordinator_an_overlapped_result_leaves_local_steps_on_top(replica: Recorder) -> None:
    loop = active_loop(replica, delay=4, offers_before_landing=True)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    loop.handle(0.0, CoordinatorLost(9.0))
    step(loop, 4)
    assert replica.calls[-1] == ("land", 0, True, False)


def test_a_result_without_it_is_landed_after_what_was_pending(replica: Recorder) -> None:
    loop = active_loop(replica, delay=3)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    loop.handle(0.0, committed(None))
    assert replica.calls == [
        ("apply", 0, True),
        ("land", 0, True, False),
        ("apply", 0, False),
        ("land", 0, False, False),
    ]


def test_a_delay_shrinks_with_the_period_of_who_is_slower(replica: Recorder) -> None:
    replica.every = 20
    loop = OuterLoop(Schedule((20,), (20,), 15, False), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    replica.every = 14  # H adapts
    offered, landed = [], []
    for at in range(1, 60):
        loop.count(2)
        commands = [c for c in loop.due(0.0) if isinstance(c, Offer)]
        for command in commands:
            loop.told(command, True)
            loop.handle(0.0, committed(1))
            offered.append(at)
        landed += [at] if replica.calls[-1:] == [("land", 0, True, True)] else []
        replica.calls.clear()
    assert offered == [20, 34, 48]
    assert landed == [30, 44, 58], "each before the next offer"


@pytest.mark.parametrize("num_steps", [3, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize(
    "method",
    [
        {},
        {"num_fragments": 2, "delay": 3},
        {"delay": 3},
        {"delay": 4, "offers_before_landing": True},
    ],
    ids=["diloco", "streaming", "delayed", "eager"],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_who_leaves_for_another_stage_offers_all_it_trained_whatever_is_under_way(
    replica: Recorder, method: dict[str, Any], num_steps: int, is_late: bool
) -> None:
    loop = active_loop(replica, **method)
    offers: list[Offer] = []
    under_way: list[Offer] = []

    def offer_last() -> bool:
        return offer_all(
            loop.progress, replica, offers_before_landing=bool(method.get("offers_before_landing"))
        )

    def offer(said: list[object]) -> None:
        offers.extend(each for each in said if isinstance(each, Offer))
        under_way.extend(each for each in said if isinstance(each, Offer))

    def commit() -> None:
        for each in under_way:
            loop.handle(0.0, committed(0, fragment=each.fragment))
        under_way.clear()

    for number in range(num_steps):
        offer(step(loop, 1))
        if not is_late or number < num_steps - 1:
            commit()
    for _ in range(5):
        if not offer_last():
            break
        said = loop.due(0.0)
        for command in said:
            loop.told(command, True)
        offer(said)
        commit()
    tokens = {f: sum(each.tokens for each in offers if each.fragment == f) for f in range(len(loop.progress))}
    assert set(tokens.values()) == {2 * num_steps}
    assert not offer_last()


def test_what_was_not_taken_or_aborted_is_offered_again_by_who_leaves(replica: Recorder) -> None:
    loop = active_loop(replica)
    loop.count(2)
    for taken in (False, True):
        assert offer_all(loop.progress, replica, offers_before_landing=False)
        said = loop.due(0.0)
        assert [type(each) for each in said] == [Offer]
        loop.told(said[0], taken)
    assert offer_all(loop.progress, replica, offers_before_landing=False)
    assert loop.due(0.0) == [], "it is under way"
    loop.handle(0.0, committed(0))
    assert not offer_all(loop.progress, replica, offers_before_landing=False)
