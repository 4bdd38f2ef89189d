"""Projections: linear, exact or converging where they should be, and the same bits on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diloco.compression.deterministic import seeded_uniform
from diloco.compression.projections import CYCLE, SURVEY, Dct, LowRank, Projection, RandomMask

SHAPES = [(24, 40), (7,), (30, 4, 5), (), (50, 8)]
N = sum(math.prod(shape) for shape in SHAPES)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return seeded_uniform((seed, 7), math.prod(shape)).view(shape)


def with_spectrum(rows: int, columns: int, singular_values: Tensor, seed: int = 0) -> Tensor:
    left = torch.linalg.qr(uniform(rows, len(singular_values), seed=seed))[0]
    right = torch.linalg.qr(uniform(columns, len(singular_values), seed=seed + 1))[0]
    return (left * singular_values) @ right.T


ALL: dict[str, Callable[[], Projection]] = {
    "mask": lambda: RandomMask(N, one_in=7, seed=3),
    "dct": lambda: Dct(N),
    "low_rank": lambda: LowRank(SHAPES, rank=3, seed=3),
    "lgreco": lambda: LowRank(SHAPES, rank=3, seed=3, adapt="lgreco"),
    "dilocox": lambda: LowRank(SHAPES, rank=3, seed=3, adapt="dilocox", sync_every=90),
}


@pytest.fixture(params=ALL)
def projection(request: pytest.FixtureRequest) -> Projection:
    return ALL[request.param]()


def rounds(projection: Projection, vectors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """What rounds with one member each lift, and the state after them."""
    state, lifted = projection.first_state(), []
    for index, x in enumerate(vectors):
        y = projection.project(x, state, index)
        lifted.append(projection.lift(y, state, index))
        state = projection.next_state(y, state, index)
    return lifted, state


def test_the_mean_of_projections_lifts_to_the_projection_of_the_mean(projection: Projection) -> None:
    state = projection.first_state()
    for index in range(SURVEY + 2):
        members = [uniform(N, seed=10 * index + member) for member in range(3)]
        weights = [0.5, 0.25, 0.25]
        sent = [projection.project(x, state, index) for x in members]
        mean = sum((w * y for w, y in zip(weights, sent, strict=True)), torch.zeros(len(sent[0])))
        x_mean = sum((w * x for w, x in zip(weights, members, strict=True)), torch.zeros(N))
        got = projection.lift(mean, state, index)
        expected = projection.lift(projection.project(x_mean, state, index), state, index)
        assert torch.allclose(got, expected, atol=1e-5)
        state = projection.next_state(mean, state, index)


def test_projecting_what_was_lifted_gives_it_back(projection: Projection) -> None:
    state, x = projection.first_state(), uniform(N)
    for index in range(3):
        y = projection.project(x, state, index)
        again = projection.project(projection.lift(y, state, index), state, index)
        assert torch.allclose(y, again, atol=1e-5)
        state = projection.next_state(y, state, index)


def test_lengths_are_as_promised_and_never_above_the_most(projection: Projection) -> None:
    state, longest = projection.first_state(), 0
    size = len(state)
    for index in range(CYCLE + 1):
        y = projection.project(uniform(N, seed=index), state, index)
        assert y.shape == (projection.length(state),)
        assert projection.lift(y, state, index).shape == (N,) == (projection.num_elements,)
        longest = max(longest, len(y))
        state = projection.next_state(y, state, index)
        assert len(state) == size
    assert longest == projection.max_sent


def test_the_old_state_and_the_inputs_stay_as_they_were(projection: Projection) -> None:
    state, x = projection.first_state(), uniform(N)
    y = projection.project(x, state, 0)
    before = [each.clone() for each in (state, x, y)]
    projection.lift(y, state, 0)
    projection.next_state(y, state, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, (state, x, y), strict=True))


def test_an_update_of_zeros_lifts_to_zeros_and_leaves_a_finite_state(projection: Projection) -> None:
    lifted, state = rounds(projection, [torch.zeros(N)] * 5)
    assert not any(each.any() for each in lifted)
    assert state.isfinite().all()
    x = uniform(N)
    lifted, _ = rounds(projection, [torch.zeros(N)] * 5 + [x] * 2)
    assert lifted[-1].any()


BITS = {
    "mask": "38c256b125fa83db",
    "dct": "031f13a2cc4e2b82",
    "low_rank": "55d96dabeaa6a5a8",
    "lgreco": "cddeb724dd80645d",
    "dilocox": "1c02c09d4931edcd",
}


@pytest.mark.parametrize("name", ALL)
def test_these_lifts_and_states_are_the_same_bits_on_every_machine(name: str) -> None:
    projection, hashed = ALL[name](), sha256()
    state = projection.first_state()
    for index in range(12):
        # Not through `project`, whose bits depend on the machine.
        y = uniform(projection.length(state), seed=index)
        hashed.update(projection.lift(y, state, index).numpy().tobytes())
        state = projection.next_state(y, state, index)
        hashed.update(state.numpy().tobytes())
    assert hashed.hexdigest()[:16] == BITS[name]


@pytest.mark.parametrize("make", [lambda: LowRank([(300, 400)], rank=8, seed=0), lambda: Dct(200_000)])
def test_threads_do_not_change_a_bit(make: Callable[[], Projection]) -> None:
    projection, results = make(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            state = projection.first_state()
            y = uniform(projection.length(state))
            results.append((projection.lift(y, state, 0), projection.next_state(y, state, 0)))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize(("n", "one_in"), [(1, 1), (10, 1), (10, 3), (9, 3), (1, 5), (1000, 7)])
def test_a_mask_takes_exactly_one_element_of_each_run(n: int, one_in: int) -> None:
    mask = RandomMask(n, one_in, seed=0)
    for index in range(20):
        support = mask.support(index)
        assert (support // one_in).tolist() == list(range(-(-n // one_in)))
        assert int(support.max()) < n


def test_masks_reach_every_element_about_equally_often() -> None:
    mask, counts = RandomMask(50, 5, seed=1), torch.zeros(50)
    for index in range(1000):
        counts[mask.support(index)] += 1
    assert 150 < float(counts.min()) <= float(counts.max()) < 250


def test_a_lifted_mask_holds_the_elements_in_their_places_and_zeros_elsewhere() -> None:
    mask, x = RandomMask(100, 9, seed=2), uniform(100)
    state = mask.first_state()
    lifted = mask.lift(mask.project(x, state, 4), state, 4)
    support = mask.support(4)
    assert torch.equal(lifted[support], x[support])
    assert int((lifted != 0).sum()) == 12


def test_masks_differ_by_round_and_by_seed() -> None:
    supports = [RandomMask(1000, 10, seed).support(index) for seed, index in [(0, 0), (0, 1), (1, 0)]]
    assert not any(torch.equal(supports[a], supports[b]) for a, b in [(0, 1), (0, 2), (1, 2)])


def test_a_mask_of_one_in_one_takes_everything() -> None:
    mask, x = RandomMask(20, 1, seed=0), uniform(20)
    state = mask.first_state()
    assert torch.equal(mask.lift(mask.project(x, state, 0), state, 0), x)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 300, 6400])
def test_the_cosine_transform_comes_back_and_keeps_lengths(n: int) -> None:
    dct, x = Dct(n), uniform(n)
    state = dct.first_state()
    y = dct.project(x, state, 0)
    assert torch.allclose(dct.lift(y, state, 0), x, atol=1e-6)
    assert float(y.norm()) == pytest.approx(float(x.norm()), rel=1e-5)


def test_a_constant_block_has_one_coefficient() -> None:
    dct = Dct(70)
    y = dct.project(torch.ones(70), dct.first_state(), 0)
    expected = torch.zeros(70)
    expected[0], expected[64] = 8.0, 6**0.5
    assert torch.allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: RandomMask(5, 0, 0), lambda: Dct(5, 0), lambda: LowRank([(9, 9)], 0, 0)]
)
def test_what_cannot_work_is_refused(make: Callable[[], Projection]) -> None:
    with pytest.raises(ValueError, match="is 0: "):
        make()


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
