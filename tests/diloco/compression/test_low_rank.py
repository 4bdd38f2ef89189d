"""Low-rank factors: exact or converging where they should be, and ranks that adapt alike on all members."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diloco.compression.low_rank import CYCLE, SURVEY, LowRank
from tests.diloco.compression.test_projections import SHAPES, rounds, uniform, with_spectrum


def residual(m: Tensor, projection: LowRank, num_rounds: int) -> list[float]:
    """Relative error of each round on the same matrix."""
    lifted, _ = rounds(projection, [m.reshape(-1)] * num_rounds)
    return [float((each - m.reshape(-1)).norm() / m.norm()) for each in lifted]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_full_rank_gives_the_exact_mean_and_no_residual(shape: tuple[int, int]) -> None:
    members = torch.stack([uniform(math.prod(shape), seed=k) for k in range(4)])
    projection = LowRank([shape], rank=6, seed=0, ranks=[min(shape)])
    state, mean = projection.first_state(), members.mean(0)
    # A first basis of the shorter side is complete; one of the longer side has to be found in a round.
    for index in range(5):
        y = torch.stack([projection.project(x, state, index) for x in members]).mean(0)
        if index or shape[0] >= shape[1]:
            assert torch.allclose(projection.lift(y, state, index), mean, atol=2e-6)
        state = projection.next_state(y, state, index)


def test_a_matrix_of_low_rank_is_found_exactly_in_the_second_round() -> None:
    m = with_spectrum(40, 60, torch.tensor([5.0, 2.0, 1.0]))
    errors = residual(m, LowRank([(40, 60)], rank=3, seed=0), 4)
    assert errors[0] > 0.1
    assert max(errors[1:]) < 1e-5


def test_errors_fall_from_round_to_round_towards_the_best_of_that_rank() -> None:
    singular_values = 0.8 ** torch.arange(30.0)
    m = with_spectrum(50, 40, singular_values)
    best = float(singular_values[6:].norm() / singular_values.norm())
    errors = residual(m, LowRank([(50, 40)], rank=6, seed=0), 30)
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(errors))
    assert errors[0] > 1.5 * best
    assert best * (1 - 1e-5) < errors[-1] < 1.001 * best


def test_warm_bases_follow_a_matrix_that_drifts() -> None:
    first, second = (with_spectrum(40, 30, torch.tensor([3.0, 2.0]), seed=seed) for seed in (0, 5))
    drift = [((1 - t) * first + t * second).reshape(-1) for t in torch.linspace(0, 1, 20)]
    lifted, _ = rounds(LowRank([(40, 30)], rank=4, seed=0), drift)
    assert all(float((a - b).norm() / b.norm()) < 0.02 for a, b in zip(lifted[3:], drift[3:], strict=True))


def test_tensors_that_are_no_matrices_or_too_small_travel_whole() -> None:
    shapes = [(7,), (24, 40), (), (4, 4), (1, 500)]
    projection = LowRank(shapes, rank=3, seed=0)
    x = uniform(projection.num_elements)
    lifted, state = rounds(projection, [x, x])
    assert projection.ranks(state) == [3]
    whole = torch.ones(len(x), dtype=torch.bool)
    whole[7 : 7 + 960] = False
    for each in lifted:
        assert torch.equal(each[whole], x[whole])
        assert not torch.equal(each[~whole], x[~whole])
    assert projection.length(state) == 3 * 24 + len(x) - 960


def test_factors_alternate_between_the_sides() -> None:
    projection = LowRank([(30, 50)], rank=4, seed=0)
    state, lengths = projection.first_state(), []
    for index in (5, 5, 9, 0):  # the state knows whose turn it is, not the index
        lengths.append(projection.length(state))
        state = projection.next_state(projection.project(uniform(1500), state, index), state, index)
    assert lengths == [120, 200, 120, 200]
    assert projection.max_sent == 200


def test_more_than_two_dimensions_are_a_matrix_with_the_first_one_as_rows() -> None:
    flat, deep = (LowRank([shape], rank=2, seed=0) for shape in [(10, 60), (10, 3, 4, 5)])
    x = uniform(600)
    assert torch.equal(rounds(flat, [x] * 3)[0][2], rounds(deep, [x] * 3)[0][2])


def test_error_feedback_delivers_in_the_end_what_compression_dropped() -> None:
    projection, x = LowRank([(20, 30)], rank=2, seed=0), uniform(600)
    state, residual, sent = projection.first_state(), torch.zeros(600), torch.zeros(600)
    for index in range(60):
        y = projection.project(x + residual, state, index)
        lifted = projection.lift(y, state, index)
        residual = x + residual - lifted
        sent += lifted
        state = projection.next_state(y, state, index)
    assert float((sent / 60 - x).norm() / x.norm()) < 0.2
    assert torch.allclose(sent + residual, 60 * x, atol=1e-3)


@pytest.mark.parametrize("ranks", [[11], [-1], [1, 1]])
def test_ranks_that_do_not_fit_are_refused(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="rank"):
        LowRank([(10, 20)], rank=2, seed=0, ranks=ranks)


FLAT, STEEP = torch.ones(12), 0.3 ** torch.arange(12.0)


def two_matrices(seed: int = 0) -> Tensor:
    """A matrix with a flat spectrum and one whose spectrum decays, [40, 50] each."""
    return torch.cat([with_spectrum(40, 50, values, seed).reshape(-1) for values in (FLAT, STEEP)])


def test_lgreco_gives_the_ranks_of_easy_matrices_to_hard_ones_and_surveys_again() -> None:
    projection = LowRank([(40, 50)] * 2, rank=8, seed=0, adapt="lgreco")
    state, seen = projection.first_state(), []
    for index in range(CYCLE + SURVEY + 1):
        seen.append(projection.ranks(state))
        state = projection.next_state(projection.project(two_matrices(), state, index), state, index)
    chosen = seen[SURVEY]
    assert seen[:SURVEY] == [[8, 8]] * SURVEY
    assert seen[SURVEY:CYCLE] == [chosen] * (CYCLE - SURVEY)
    assert seen[CYCLE : CYCLE + SURVEY] == [[8, 8]] * SURVEY
    assert chosen[0] > chosen[1]
    assert sum(chosen) <= 8
    assert projection.ranks(state)[0] > projection.ranks(state)[1]


def test_dilocox_shrinks_rank_and_h_on_a_spectrum_that_decays_and_keeps_them_on_a_flat_one() -> None:
    shape, ends = (40, 50), []
    for values in (FLAT, STEEP):
        projection = LowRank([shape], rank=8, seed=0, adapt="dilocox", sync_every=100)
        x = with_spectrum(*shape, values).reshape(-1)
        _, state = rounds(projection, [x] * 20)
        ends.append((projection.ranks(state), projection.sync_every(state), projection.length(state)))
    assert ends == [([8], 100, 8 * 40), ([2], 25, 2 * 40)]


def test_h_does_not_adapt_unless_it_is_told_to() -> None:
    for adapt in ("none", "lgreco"):
        projection = LowRank(SHAPES, rank=3, seed=0, adapt=adapt, sync_every=100)
        assert projection.sync_every(projection.first_state()) is None


@pytest.mark.parametrize("adapt", ["lgreco", "dilocox"])
def test_members_with_the_same_commits_hold_the_same_state_also_one_who_joined(adapt: str) -> None:
    def make() -> LowRank:
        return LowRank([(40, 50)] * 2, rank=8, seed=0, adapt=adapt)  # type: ignore[arg-type]

    member = make()
    state = member.first_state()
    for index in range(6):
        state = member.next_state(member.project(two_matrices(), state, index), state, index)
    joined, joined_state = make(), state.clone()
    for index in range(6, 40):
        y = member.project(two_matrices(seed=index // 9), state, index)
        state = member.next_state(y, state, index)
        joined_state = joined.next_state(y, joined_state, index)
        assert torch.equal(state, joined_state)
    assert member.ranks(state) == joined.ranks(joined_state) != [8, 8]


def test_a_rank_that_grew_again_has_an_orthonormal_basis() -> None:
    projection = LowRank([(40, 50)], rank=8, seed=0, adapt="lgreco")
    x = with_spectrum(40, 50, STEEP).reshape(-1)
    _, state = rounds(projection, [x] * CYCLE)
    assert projection.ranks(state) == [8]
    basis = state[-8 * 50 :][: 8 * 50].view(8, 50)
    assert torch.allclose(basis @ basis.T, torch.eye(8), atol=1e-5)
