"""Schedule: when fragments start, how often, and what a contribution weighs."""

from __future__ import annotations

from diloco.methods.presets import method
from diloco.methods.schedule import Schedule


def test_fragments_start_staggered_over_h_though_their_number_does_not_divide_it() -> None:
    schedule = Schedule.of(method("streaming", sync_every=10, num_fragments=3))
    assert schedule.offsets == (3, 6, 10)
    assert schedule.periods == (10, 10, 10)
    assert Schedule.of(method("diloco")).offsets == (100,)


def test_moments_move_less_often_than_parameters() -> None:
    schedule = Schedule.of(method("des_loc"))
    assert schedule.periods == (64, 3 * 64, 6 * 64)
    assert schedule.num_commits(6) == 6 + 2 + 1


def test_an_outer_step_of_low_rank_factors_is_two_commits() -> None:
    schedule = Schedule.of(method("dilocox"))
    assert schedule.exchanges_per_step == 2
    assert schedule.num_commits(6) == 12
    assert Schedule.of(method("diloco")).exchanges_per_step == 1


def test_offers_rest_on_what_was_committed_meanwhile_where_rounds_do_not_wait_for_all() -> None:
    assert Schedule.of(method("async_diloco")).rebases
    assert not Schedule.of(method("diloco")).rebases
    assert Schedule.of(method("noloco")).gossips
