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
    """Relative error of each outer step on the same matrix."""
    lifted, _ = rounds(projection, [m.reshape(-1)] * num_rounds)
    return [float((each - m.reshape(-1)).norm() / m.norm()) for each in lifted]


def outer_step(projection: LowRank, members: Tensor, state: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Both exchanges with all ``members`` [k, n]: the update, what each one's part stands for, and the state
    after."""
    sketch = torch.stack([projection.project(x, state, 0) for x in members]).mean(0)
    state = projection.next_state(sketch, state, 0)
    sent = [projection.project(x, state, 0) for x in members]
    mean = torch.stack(sent).mean(0)
    parts = [projection.lift(y, state, 0) for y in sent]
    return projection.lift(mean, state, 0), parts, projection.next_state(mean, state, 0)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_full_rank_gives_the_exact_mean_and_no_residual_from_the_first_outer_step(
    shape: tuple[int, int],
) -> None:
    members = torch.stack([uniform(math.prod(shape), seed=k) for k in range(4)])
    projection = LowRank([shape], rank=6, seed=0, ranks=[min(shape)])
    state = projection.first_state()
    for _ in range(3):
        update, parts, state = outer_step(projection, members, state)
        assert torch.allclose(update, members.mean(0), atol=2e-6)
        # The basis holds all columns of the mean, and of every member if it is complete.
        left = torch.stack(parts) - members
        assert torch.allclose(left.mean(0), torch.zeros_like(left[0]), atol=2e-6)
        assert shape[0] > shape[1] or torch.allclose(left, torch.zeros_like(left), atol=2e-6)


def test_a_matrix_of_low_rank_is_found_exactly_in_the_first_outer_step() -> None:
    m = with_spectrum(40, 60, torch.tensor([5.0, 2.0, 1.0]))
    assert max(residual(m, LowRank([(40, 60)], rank=3, seed=0), 3)) < 1e-5


@pytest.mark.parametrize("shape", [(256, 256), (1024, 256), (256, 1024)])
def test_the_first_outer_step_carries_most_of_the_energy_that_its_rank_can(shape: tuple[int, int]) -> None:
    """A spectrum like that of a pseudo-gradient. A projection on random columns alone, of which P = M Q is
    the whole, carries only the share r / n of it."""
    rank, singular_values = 8, 1 / torch.arange(1.0, 257.0)
    m = with_spectrum(*shape, singular_values)
    best = float(singular_values[:rank].square().sum() / singular_values.square().sum())
    (update,), _ = rounds(LowRank([shape], rank=rank, seed=0), [m.reshape(-1)])
    carried = 1 - float((update - m.reshape(-1)).square().sum() / m.square().sum())
    assert 0.6 < carried < best
    assert rank / shape[1] < 0.04


def test_errors_fall_from_round_to_round_towards_the_best_of_that_rank() -> None:
    singular_values = 0.8 ** torch.arange(30.0)
    m = with_spectrum(50, 40, singular_values)
    best = float(singular_values[6:].norm() / singular_values.norm())
    errors = residual(m, LowRank([(50, 40)], rank=6, seed=0), 30)
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(errors))
    assert errors[0] > 1.2 * best
    assert best * (1 - 1e-5) < errors[-1] < 1.001 * best


def test_warm_bases_follow_a_matrix_that_drifts() -> None:
    first, second = (with_spectrum(40, 30, torch.tensor([3.0, 2.0]), seed=seed) for seed in (0, 5))
    drift = [((1 - t) * first + t * second).reshape(-1) for t in torch.linspace(0, 1, 20)]
    lifted, _ = rounds(LowRank([(40, 30)], rank=4, seed=0), drift)
    assert all(float((a - b).norm() / b.norm()) < 0.02 for a, b in zip(lifted[3:], drift[3:], strict=True))


def test_tensors_that_are_no_matrices_or_too_small_travel_whole_with_the_second_factors() -> None:
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
    assert projection.length(state) == 3 * 24
    second = projection.next_state(uniform(3 * 24), state, 0)
    assert projection.length(second) == 3 * 40 + len(x) - 960 == projection.max_sent


def test_an_outer_step_sends_the_factors_of_both_sides() -> None:
    projection = LowRank([(30, 50)], rank=4, seed=0)
    state, lengths = projection.first_state(), []
    for index in (5, 5, 9, 0):  # the state knows whose turn it is, not the index
        lengths.append((projection.sketches(state), projection.length(state)))
        state = projection.next_state(projection.project(uniform(1500), state, index), state, index)
    assert lengths == [(True, 120), (False, 200)] * 2
    assert projection.max_sent == 200


def test_without_a_matrix_a_sketch_is_one_zero_and_an_outer_step_is_exact() -> None:
    projection, x = LowRank([(5,), (2, 3)], rank=2, seed=0), uniform(11)
    state = projection.first_state()
    assert projection.project(x, state, 0).tolist() == [0.0]
    (update,), state = rounds(projection, [x])
    assert torch.equal(update, x)
    assert projection.sketches(state)


def test_any_common_basis_is_right_for_who_was_not_in_the_sketch() -> None:
    """The sketch of two of three members: the second exchange of all three is the mean of all three, on that
    basis, and what each one's part stands for and leaves is all that it had."""
    projection = LowRank([(20, 30)], rank=5, seed=0)
    members = torch.stack([uniform(600, seed=k) for k in range(3)])
    state = projection.first_state()
    sketch = torch.stack([projection.project(x, state, 0) for x in members[:2]]).mean(0)
    state = projection.next_state(sketch, state, 0)
    sent = torch.stack([projection.project(x, state, 0) for x in members])
    basis = torch.linalg.qr(sketch.view(5, 20).T)[0]
    for x, y in zip([*members, members.mean(0)], [*sent, sent.mean(0)], strict=True):
        on_basis = basis @ (basis.T @ x.view(20, 30))
        assert torch.allclose(projection.lift(y, state, 0).view(20, 30), on_basis, atol=1e-5)


def test_a_rank_that_is_a_share_follows_the_shorter_side_of_each_matrix() -> None:
    projection = LowRank([(100, 400), (40, 30), (64, 64), (9,)], rank=8, seed=0, rank_share=0.5)
    assert projection.ranks(projection.first_state()) == [50, 15], "half the rank of a square is no less"
    smaller = LowRank([(100, 400), (40, 30), (64, 64), (9,)], rank=8, seed=0, rank_share=0.25)
    assert smaller.ranks(smaller.first_state()) == [25, 7, 16]


def test_more_than_two_dimensions_are_a_matrix_with_the_first_one_as_rows() -> None:
    flat, deep = (LowRank([shape], rank=2, seed=0) for shape in [(10, 60), (10, 3, 4, 5)])
    x = uniform(600)
    assert torch.equal(rounds(flat, [x] * 3)[0][2], rounds(deep, [x] * 3)[0][2])


def test_error_feedback_delivers_in_the_end_what_compression_dropped() -> None:
    projection, x = LowRank([(20, 30)], rank=2, seed=0), uniform(600)
    state, residual, sent = projection.first_state(), torch.zeros(600), torch.zeros(600)
    for _ in range(60):
        lifted, _, state = outer_step(projection, (x + residual)[None], state)
        residual = x + residual - lifted
        sent += lifted
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
    for _ in range(CYCLE + SURVEY + 1):
        seen.append(projection.ranks(state))
        _, state = rounds(projection, [two_matrices()], state)
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
