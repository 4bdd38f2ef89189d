"""What ranks say to each other: bytes and back, sums, and where they do not go together."""

from __future__ import annotations

import math

from diloco.training.site_words import Facts, Order, Said, agreed, go


def test_words_come_back_from_their_bytes() -> None:
    said = Said("optimizer.step", 12, 0.5, stop=True, failed="no – more")
    assert Said.from_bytes(said.to_bytes()) == said
    facts = Facts(step=3, fates={"applied": 7}, loss=math.inf, finished=True)
    order = Order.from_bytes(go(facts).to_bytes())
    assert order.do == "go"
    assert order.told == facts


def test_tokens_are_the_sum_over_the_ranks_and_the_loss_their_mean_by_tokens() -> None:
    found = agreed([Said("s", 10, 1.0), Said("s", 30, 2.0), Said("s", 5)])
    assert (found.tokens, found.loss) == (45, 1.75)
    assert not found.error
    assert agreed([Said("s", 10)]).loss is None


def test_one_rank_that_stops_or_is_out_of_batches_stops_all() -> None:
    assert agreed([Said("s"), Said("s", stop=True)]).stop
    found = agreed([Said("s"), Said("s", out=True)])
    assert (found.out, found.stop) == (1, False)


def test_a_rank_that_failed_is_named_with_its_reason() -> None:
    assert agreed([Said("s"), Said("s", failed="no memory")]).error == "rank 1: no memory"
    assert agreed([Said("s", failed="no memory")]).error == "no memory"


def test_ranks_at_different_places_are_told_where() -> None:
    error = agreed([Said("outer.outer_parameters"), Said("optimizer.step")]).error
    assert error.startswith("rank 1 is at optimizer.step and rank 0 at outer.outer_parameters")
