"""Progress: steps and tokens of one fragment, before, in and after a snapshot."""

from __future__ import annotations

from diloco.loop.progress import Progress
from transport.collectives.reducer import NumpyReducer


def offered() -> Progress:
    """A snapshot at 4 steps of 2 tokens is on its way, and 3 steps more were trained."""
    each = Progress(4, steps=4, tokens=8)
    each.offer(NumpyReducer(1))
    each.in_round = True
    each.steps, each.tokens = 7, 14
    return each


def test_steps_count_from_the_snapshot_that_is_offered_or_kept() -> None:
    each = offered()
    assert (each.has_snapshot, each.steps_since_offer) == (True, 3)
    assert each.is_new
    each.keep_snapshot(again_in=2)
    assert (each.has_snapshot, each.steps_since_offer, each.next_offer) == (True, 3, 9)
    assert (each.offered, each.in_round, each.offered_tokens) == (None, False, 8)
    assert Progress(4, steps=3).steps_since_offer == 3


def test_a_snapshot_that_is_lost_takes_its_tokens_along() -> None:
    each = offered()
    assert each.lose_snapshot() == 8
    assert (each.steps, each.tokens, each.has_snapshot, each.offered_tokens) == (3, 6, False, 0)
    assert each.lose_snapshot() == 0


def test_a_snapshot_that_is_kept_is_offered_again_as_it_was() -> None:
    each = offered()
    each.keep_snapshot(again_in=0)
    each.offer(NumpyReducer(1))
    assert not each.is_new
    assert (each.offered_steps, each.offered_tokens, each.steps_since_offer) == (4, 8, 3)


def test_what_is_kept_of_an_offer_on_its_way_is_offered_again_with_what_came_after() -> None:
    kept = offered().kept(offers_before_landing=False, period=4)
    assert (kept["steps"], kept["tokens"], kept["next_offer"]) == (7, 14, 7)


def test_what_is_kept_of_an_offer_that_the_live_model_has_gone_on_without_is_what_came_after() -> None:
    kept = offered().kept(offers_before_landing=True, period=4)
    assert (kept["steps"], kept["tokens"], kept["next_offer"]) == (3, 6, 4)


def test_what_is_kept_between_offers_is_as_it_is() -> None:
    each = Progress(next_offer=8, steps=3, tokens=30, landing=NumpyReducer(1), in_step=True)
    assert each.kept(offers_before_landing=False, period=8) == {
        "steps": 3,
        "tokens": 30,
        "next_offer": 8,
        "lands": True,
        "in_step": True,
    }
