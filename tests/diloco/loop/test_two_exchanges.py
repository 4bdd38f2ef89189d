"""The outer loop where an outer step is two exchanges of one snapshot (low-rank factors)."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.loop.outer_loop import OuterLoop
from peers.protocol.commands import (
    ConfirmApplied,
    Offer,
    TakeBack,
)
from peers.protocol.events import (
    ContributionEnded,
    Fate,
    StateFetched,
)
from peers.protocol.record import GENESIS
from tests.diloco.loop.kit import WAIT_S, Recorder, active_loop, committed, record, step


@pytest.fixture
def two() -> Recorder:
    """Of a method whose outer steps are two exchanges."""
    return Recorder(tells_offers=True, next_is_sketch=True, two_exchanges=True)


def loop_of(two: Recorder, **of_schedule: Any) -> OuterLoop:
    return active_loop(two, exchanges_per_step=2, **of_schedule)


def offers(loop: OuterLoop, taken: bool = True) -> list[tuple[int, int]]:
    """Tokens and weights of what is offered now."""
    found = []
    for command in loop.due(0.0):
        assert isinstance(command, Offer)
        found.append((command.tokens, command.weight))
        loop.told(command, taken)
    return found


def test_a_snapshot_that_is_kept_is_given_up_with_what_is_not_finite(two: Recorder) -> None:
    loop = loop_of(two)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert loop.progress[0].keeps
    two.broken = True
    loop.count(2)
    loop.due(0.0)
    assert (loop.progress[0].keeps, loop.setbacks.tokens) == (False, 10)


def test_another_fragments_snapshot_that_is_kept_goes_with_its_own_values(two: Recorder) -> None:
    loop = active_loop(two, num_fragments=2, exchanges_per_step=2)
    offered = [c.fragment for c in step(loop, 4) if isinstance(c, Offer)]
    assert sorted(offered) == [0, 1]
    loop.handle(0.0, committed(1))
    assert loop.progress[0].keeps
    loop.handle(0.0, ContributionEnded(1, 1, 0, Fate.LATE, "why"))
    two.broken, two.infinite = True, {0, 1}
    loop.count(2)
    loop.due(0.0)
    two.broken = False
    assert not any(each.keeps for each in loop.progress)
    step(loop, 8)  # it goes on


def test_a_sketch_has_the_weight_and_no_tokens_and_the_second_exchange_follows_at_once(two: Recorder) -> None:
    loop = loop_of(two)
    (sketch,) = step(loop, 4)
    assert isinstance(sketch, Offer)
    assert (sketch.tokens, sketch.weight) == (0, 8)
    assert loop.waits(0.0)
    assert loop.handle(0.0, committed(1)) == [ConfirmApplied(record(), bytes(16))]
    assert offers(loop) == [(8, 8)]
    assert loop.waits(0.0)
    loop.handle(0.0, committed(2))
    assert two.calls == [
        ("offer", 0),
        ("sketch", 0, True),
        ("again", 0),
        ("apply", 0, True),
        ("land", 0, True, True),
    ]
    assert not loop.waits(0.0)
    assert loop.rounds_applied == 2
    assert len(step(loop, 4)) == 1


def test_a_result_of_two_exchanges_lands_its_delay_after_the_first_offer(two: Recorder) -> None:
    loop = loop_of(two, delay=3)
    step(loop, 5)
    loop.handle(0.0, committed(1))
    assert loop.quiet_steps() == 1
    assert offers(loop) == [(8, 8)], "of the snapshot, not of the step since"
    assert (loop.quiet_steps(), loop.progress[0].steps_since_offer) == (2, 1)
    step(loop, 1)
    assert not loop.waits(0.0)
    step(loop, 1)
    assert loop.waits(0.0), "3 steps after the sketch was offered"
    loop.handle(0.0, committed(2))
    assert two.calls[-1] == ("land", 0, True, True)
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.weight == 8, "H counts from the first offer"


def test_with_a_whole_outer_step_of_overlap_only_the_first_offer_lands_what_came(two: Recorder) -> None:
    loop = loop_of(two, delay=4, offers_before_landing=True)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop) == [(8, 8)]
    step(loop, 1)
    loop.handle(0.0, committed(2))
    step(loop, 3)
    lands = [call for call in two.calls if call[0] == "land"]
    assert lands == [("land", 0, False, True), ("land", 0, True, True)]
    assert loop.progress[0].offered_tokens == 8


@pytest.mark.parametrize("fate", [Fate.LATE, Fate.REJECTED, Fate.SUPERSEDED])
@pytest.mark.parametrize("whole", [False, True])
def test_a_sketch_that_meets_another_fate_loses_no_training(two: Recorder, fate: Fate, whole: bool) -> None:
    loop = loop_of(two, **({"delay": 4, "offers_before_landing": True} if whole else {}))
    step(loop, 4)
    loop.handle(0.0, ContributionEnded(0, 1, 0, fate, "why"))
    assert ("discard", 0) not in two.calls
    assert not loop.waits(0.0)
    loop.handle(0.0, committed(None))  # the others' sketch
    assert offers(loop) == [(8, 8)]
    loop.handle(0.0, committed(2))
    assert [call for call in two.calls if call[0] in ("offer", "again")] == [("offer", 0), ("again", 0)]
    assert loop.tokens_unoffered == 0


@pytest.mark.parametrize(("fate", "steps"), [(Fate.LATE, 1), (Fate.REJECTED, 4)])
def test_a_sketch_whose_round_came_to_nothing_is_offered_again_of_the_same_snapshot(
    two: Recorder, fate: Fate, steps: int
) -> None:
    two.every = 40
    loop = loop_of(two)
    step(loop, 4)
    loop.handle(0.0, ContributionEnded(0, 1, 0, fate, "why"))
    assert step(loop, steps - 1) == []
    (sketch,) = step(loop, 1)
    assert isinstance(sketch, Offer)
    assert (sketch.tokens, sketch.weight) == (0, 8)
    assert two.calls == [("offer", 0), ("again", 0)]


def test_who_was_not_in_the_sketch_offers_for_the_second_exchange_what_it_has_trained(two: Recorder) -> None:
    loop = loop_of(two)
    step(loop, 2)
    loop.handle(0.0, committed(None))
    assert offers(loop) == [(4, 4)]
    assert two.calls == [("sketch", 0, False), ("offer", 0)]


def test_who_joins_between_the_exchanges_offers_after_its_first_step(two: Recorder) -> None:
    two.next_is_sketch = False
    loop = loop_of(two)
    loop.handle(0.0, StateFetched(0, GENESIS, bytearray(8)))
    assert offers(loop) == []
    (offer,) = step(loop, 1)
    assert isinstance(offer, Offer)
    assert offer.tokens == 2


@pytest.mark.parametrize("whole", [False, True])
def test_a_second_offer_that_is_not_taken_is_made_again_of_the_same_snapshot(
    two: Recorder, whole: bool
) -> None:
    loop = loop_of(two, **({"delay": 4, "offers_before_landing": True} if whole else {}))
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop, taken=False) == [(8, 8)]
    (offer,) = step(loop, 1)
    assert isinstance(offer, Offer)
    assert offer.tokens == 8
    assert two.calls[-2:] == [("again", 0), ("again", 0)]


@pytest.mark.parametrize(("whole", "lost"), [(False, 0), (True, 8)])
def test_an_outer_step_that_ends_without_what_was_kept_for_it_loses_what_a_landing_wiped_out(
    two: Recorder, whole: bool, lost: int
) -> None:
    loop = loop_of(two, **({"delay": 4, "offers_before_landing": True} if whole else {}))
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop, taken=False) == [(8, 8)]  # the member has heard of the second commit already
    loop.handle(0.0, committed(None))
    assert loop.tokens_unoffered == lost
    assert loop.progress[0].tokens == 8 - lost
    assert not loop.progress[0].has_snapshot


def test_the_second_exchange_given_up_is_trained_on_and_offered_with_more(two: Recorder) -> None:
    loop = loop_of(two)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop) == [(8, 8)]
    (taken_back,) = loop.due(WAIT_S + 1)
    assert taken_back == TakeBack(0)
    loop.told(taken_back, True)
    (offer,) = step(loop, 4)
    assert isinstance(offer, Offer)
    assert offer.tokens == 16
    assert two.calls[-1] == ("offer", 0)
