"""Adaptive compression: choices that keep their budget, equal brute force, and are the same for all."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diloco.compression.rank_control import (
    RankController,
    Spectrum,
    choose,
    effective_rank,
    share_ranks,
    tails,
)

Sizes = list[list[int]]
Errors = list[list[float]]


def brute_force(sizes: Sizes, errors: Errors, budget: float) -> int | None:
    """The smallest total size within the budget, by looking at every choice."""
    totals = [
        sum(layer[index] for layer, index in zip(sizes, choice, strict=True))
        for choice in product(*(range(len(layer)) for layer in sizes))
        if squared_error(errors, choice) <= budget
    ]
    return min(totals, default=None)


def squared_error(errors: Errors, choice: tuple[int, ...] | list[int]) -> float:
    return math.fsum(layer[index] ** 2 for layer, index in zip(errors, choice, strict=True))


def total(sizes: Sizes, choice: list[int]) -> int:
    return sum(layer[index] for layer, index in zip(sizes, choice, strict=True))


@st.composite
def problems(draw: st.DrawFn, errors: st.SearchStrategy[float]) -> tuple[Sizes, Errors]:
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    sizes = [draw(st.lists(st.integers(0, 100), min_size=n, max_size=n)) for n in counts]
    return sizes, [draw(st.lists(errors, min_size=n, max_size=n)) for n in counts]


@given(problems(st.integers(0, 10).map(float)), st.integers(1, 200))
def test_choices_equal_brute_force_when_squared_errors_are_whole_buckets(
    problem: tuple[Sizes, Errors], budget: int
) -> None:
    sizes, errors = problem
    best = brute_force(sizes, errors, budget)
    if best is None:
        with pytest.raises(ValueError, match="budget"):
            choose(sizes, errors, float(budget), buckets=budget)
    else:
        chosen = choose(sizes, errors, float(budget), buckets=budget)
        assert total(sizes, chosen) == best
        assert squared_error(errors, chosen) <= budget


@given(problems(st.floats(0, 10)), st.floats(0, 300), st.sampled_from([10, 100, 10_000]))
def test_choices_never_exceed_the_budget_and_are_never_better_than_brute_force(
    problem: tuple[Sizes, Errors], budget: float, buckets: int
) -> None:
    sizes, errors = problem
    best = brute_force(sizes, errors, budget * (1 + 1e-12))
    try:
        chosen = choose(sizes, errors, budget, buckets)
    except ValueError:
        assert brute_force(sizes, errors, budget * (1 - 1e-12) - 1e-300) is None
        return
    assert best is not None
    assert squared_error(errors, chosen) <= budget * (1 + 1e-12)
    assert total(sizes, chosen) >= best


def test_equal_candidates_go_to_the_lower_index() -> None:
    assert choose([[5, 5, 5], [7, 7]], [[1.0, 0.0, 0.0], [0.5, 0.0]], budget=100.0) == [0, 0]


def test_a_budget_of_nothing_takes_what_has_no_error() -> None:
    assert choose([[1, 2, 3], [1, 2]], [[1.0, 0.0, 0.0], [1e-30, 0.0]], budget=0.0) == [1, 1]


def test_where_rounding_up_leaves_nothing_the_most_accurate_are_taken() -> None:
    # Ten layers, each a tenth of the budget, in three buckets: each rounds up to one.
    sizes, errors = [[1, 2]] * 10, [[2.0, 1.0]] * 10
    assert choose(sizes, errors, budget=10.0, buckets=3) == [1] * 10


def test_no_layers_need_no_choice() -> None:
    assert choose([], [], budget=1.0) == []


def test_a_sensitive_layer_gets_the_room_that_an_easy_one_gives_up() -> None:
    sizes = [[10, 20, 40], [10, 20, 40]]
    errors = [[9.0, 8.0, 0.0], [1.0, 0.5, 0.0]]
    assert choose(sizes, errors, budget=2.0) == [2, 0]


def test_tails_are_sums_from_each_place_on() -> None:
    assert tails([4.0, 2.0, 1.0]) == [7.0, 3.0, 1.0, 0.0]
    assert tails([]) == [0.0]


@pytest.mark.parametrize(
    ("energies", "rank"),
    [
        ([1.0], 1),
        ([1.0, 1.0, 1.0, 1.0], 4),
        ([1.0, 0.02, 0.001], 2),
        ([1.0, 1e-9], 1),
        ([0.0] * 3, 0),
        ([], 0),
    ],
)
def test_the_effective_rank_holds_99_percent_of_the_energy(energies: list[float], rank: int) -> None:
    assert effective_rank(energies) == rank


def test_the_rank_stays_until_the_window_is_full_and_then_follows_its_mean() -> None:
    control = RankController(first_rank=16, window=3)
    assert [control.next(history) for history in ([], [2], [2, 2])] == [16, 16, 16]
    assert control.next([2, 2, 2]) == 2
    assert control.next([16, 16, 5, 4, 4]) == 5  # 13 / 3, rounded up
    assert control.next([99, 99, 99]) == 16
    assert RankController(first_rank=16, min_rank=4, window=1).next([1]) == 4


def test_h_shrinks_with_the_rank_and_is_at_least_one() -> None:
    control = RankController(first_rank=16)
    assert [control.sync_every(rank, 100) for rank in (16, 8, 5, 1)] == [100, 50, 31, 6]
    assert control.sync_every(1, 8) == 1  # half a step, rounded up
    assert control.sync_every(1, 3) == 1


@pytest.mark.parametrize("wrong", [{"min_rank": 0}, {"min_rank": 9}, {"window": 0}])
def test_a_controller_that_cannot_work_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        RankController(first_rank=8, **wrong)


def test_candidates_are_ranks_from_half_to_twice_the_reference() -> None:
    spectrum = Spectrum(rows=10, columns=20, energies=[16.0, 9.0, 4.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    ranks, sizes, errors = spectrum.candidates()
    assert spectrum.reference == 4
    assert ranks == [2, 3, 4, 5, 6, 7, 8]
    assert sizes == [30 * rank for rank in ranks]
    assert errors == [math.sqrt(5), 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert Spectrum(10, 20, [3.0]).candidates() == ([1], [30], [0.0])


def test_shared_ranks_follow_the_spectra_within_the_error_of_half_the_rank_for_all() -> None:
    flat = Spectrum(100, 100, [1.0] * 8)
    steep = Spectrum(100, 100, [100.0 * 0.05**k for k in range(8)])
    ranks = share_ranks([flat, steep, steep])
    assert ranks == [5, 2, 2]  # flat gives one more, 1.0, which pays for two less of both others, 0.26 each
    error = sum(tails(each.energies)[rank] for each, rank in zip([flat, steep, steep], ranks, strict=True))
    assert error <= sum(tails(each.energies)[4] for each in (flat, steep, steep))


@given(st.lists(st.lists(st.floats(0, 1e30), min_size=1, max_size=9), max_size=5))
def test_shared_ranks_keep_the_budget_for_any_spectrum(drawn: list[list[float]]) -> None:
    spectra = [Spectrum(7 + k, 9, sorted(each, reverse=True)) for k, each in enumerate(drawn)]
    ranks = share_ranks(spectra)
    left = math.fsum(tails(each.energies)[rank] for each, rank in zip(spectra, ranks, strict=True))
    budget = math.fsum(tails(each.energies)[each.reference] for each in spectra)
    assert left <= budget * (1 + 1e-9)
    assert all(1 <= rank <= len(each.energies) for each, rank in zip(spectra, ranks, strict=True))
