"""Deterministic arithmetic: equal to a twin in numpy bit for bit, for any number of threads, and accurate."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diloco.compression.deterministic import (
    dct_matrix,
    leading_energies,
    orthonormal,
    pairwise_sum,
    seeded_bits,
    seeded_uniform,
    sum_of_outer_products,
)
from diloco.compression.vectors import SLICE


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return seeded_uniform((seed, 99), math.prod(shape)).view(shape)


def folded(values: list[np.float32]) -> np.float32:
    """`pairwise_sum` in the plainest words."""
    while len(values) & (len(values) - 1):
        values = [*values, np.float32(0)]
    while len(values) > 1:
        half = len(values) // 2
        values = [values[i] + values[half + i] for i in range(half)]
    return values[0]


def on_grid(x: Tensor, bits: int) -> list[list[Fraction]]:
    """Columns of ``x``, each rounded to ``bits`` below the power of two above its largest, in exact
    arithmetic."""
    columns = []
    for column in x.t().tolist():
        unit = Fraction(2) ** (math.frexp(max(map(abs, column)))[1] - bits)
        columns.append([round(Fraction(value) / unit) * unit for value in column])
    return columns


def outer_products_twin(left: Tensor, right: Tensor) -> np.ndarray:
    """In exact arithmetic, rounded once to fp64, which is exact too, and once to fp32."""
    bits = 53 - math.ceil(math.log2(len(left)))
    rows, columns = on_grid(left, bits // 2), on_grid(right, bits - bits // 2)
    sums = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]
    assert all(Fraction(float(each)) == each for row in sums for each in row)
    return np.array([[float(each) for each in row] for row in sums]).astype(np.float32)


def is_orthonormal(basis: Tensor) -> bool:
    gram = basis.double() @ basis.double().T
    return bool((gram - torch.eye(len(basis))).abs().max() < 1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 100, 1023, 1024, 1025])
def test_a_pairwise_sum_is_the_fold_of_the_padded_row(n: int) -> None:
    x = uniform(3, n)
    assert [value.item() for value in pairwise_sum(x)] == [float(folded(list(row))) for row in x.numpy()]


def test_the_sum_of_nothing_is_zero() -> None:
    assert pairwise_sum(torch.empty(2, 0)).tolist() == [0.0, 0.0]
    assert pairwise_sum(torch.empty(0, 5)).tolist() == []


def test_a_pairwise_sum_of_many_values_is_accurate_and_leaves_its_input_alone() -> None:
    x = uniform(1, 1_000_003).abs()
    before = x.clone()
    assert float(pairwise_sum(x)) == pytest.approx(float(x.double().sum()), rel=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("r", "m", "n"), [(1, 3, 4), (5, 7, 11), (64, 9, 8), (65, 8, 9), (3000, 2, 3)])
@pytest.mark.parametrize("exponent", [-149, -70, 0, 63])
def test_a_sum_of_outer_products_is_exact_on_its_grid(r: int, m: int, n: int, exponent: int) -> None:
    left, right = uniform(r, m), uniform(r, n, seed=1)
    left *= 2.0 ** (-10 * torch.arange(m))  # columns have grids of their own
    left, right = left * 2.0**exponent, right * 2.0 ** min(63, -exponent)
    got = sum_of_outer_products(left, right, torch.full((m, n), math.nan))
    assert np.array_equal(got.numpy(), outer_products_twin(left, right))
    wide = sum_of_outer_products(left, right, torch.empty(m, n, dtype=torch.float64))
    assert torch.equal(wide.float(), got)


def test_the_largest_sums_are_exact_whatever_their_order() -> None:
    """All terms as large as they can be, and of one sign, or such that they cancel but for the last bit."""
    r = 1024
    left = torch.full((r, 2), 1.0 - 2.0**-21)
    right = torch.full((r, 2), 1.0 - 2.0**-22)
    left[r // 2 :, 1] *= -1.0
    left[0, 1] = 1.0 - 2.0**-20
    for order in (
        torch.arange(r),
        torch.arange(r).flip(0),
        torch.from_numpy(np.random.default_rng(0).permutation(r)),
    ):
        out = torch.empty(2, 2, dtype=torch.float64)
        got = sum_of_outer_products(left[order], right[order], out)
        exact = [sum(Fraction(a) * Fraction(1 - 2.0**-22) for a in row) for row in left.t().tolist()]
        assert [Fraction(each) for each in got[:, 0].tolist()] == exact


@pytest.mark.parametrize("r", [8, 300, 1000])
def test_a_sum_of_outer_products_is_about_as_accurate_as_one_in_fp32(r: int) -> None:
    left, right = uniform(r, 50), uniform(r, 60, seed=1)
    got = sum_of_outer_products(left, right, torch.empty(50, 60))
    exact = left.double().T @ right.double()
    assert float((got - exact).norm() / exact.norm()) < 1e-6


def test_large_results_are_made_part_by_part_and_zeros_and_no_columns_are_no_special_case() -> None:
    left, right = uniform(3, 40), uniform(3, SLICE, seed=1)
    got = sum_of_outer_products(left, right, torch.empty(40, SLICE))
    assert torch.equal(got[17:19], sum_of_outer_products(left[:, 17:19], right, torch.empty(2, SLICE)))
    assert not sum_of_outer_products(torch.zeros(3, 4), uniform(3, 5), torch.empty(4, 5)).any()
    assert sum_of_outer_products(torch.zeros(3, 0), uniform(3, 5), torch.empty(0, 5)).shape == (0, 5)
    assert sum_of_outer_products(uniform(3, 5), torch.zeros(3, 0), torch.empty(5, 0)).shape == (5, 0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    left, right = uniform(3, 4), uniform(3, 5, seed=1)
    left[1, 2] = value
    finite = sum_of_outer_products(left, right, torch.empty(4, 5)).isfinite()
    assert finite.all(1).tolist() == [True, True, False, True]
    assert not finite[2].any()


def test_a_sum_of_outer_products_of_strided_inputs_is_the_same() -> None:
    left, right = uniform(5, 40), uniform(5, 30, seed=1)
    strided = sum_of_outer_products(left.t().contiguous().t(), right, torch.empty(40, 30))
    assert torch.equal(strided, sum_of_outer_products(left, right, torch.empty(40, 30)))


def basis_of(vectors: Tensor) -> Tensor:
    return orthonormal(vectors)[0]


@pytest.mark.parametrize(("r", "n"), [(1, 1), (1, 9), (5, 5), (8, 100), (32, 500)])
def test_a_basis_is_orthonormal_and_its_first_row_is_the_longest_vector(r: int, n: int) -> None:
    vectors = uniform(r, n)
    basis = basis_of(vectors)
    assert is_orthonormal(basis)
    lengths = vectors.double().norm(dim=1)
    along = vectors.double() @ basis.double().T
    assert float(along[lengths.argmax(), 0]) == pytest.approx(float(lengths.max()), rel=1e-6)
    # All that the vectors are is in the basis.
    assert torch.allclose(along.norm(dim=1), lengths, rtol=1e-6)
    # The vector that a row is made of lies along it by all that rows before do not hold: most of all vectors.
    before = torch.cat([torch.zeros(r, 1), along.square().cumsum(1)[:, :-1]], 1)
    left = lengths.square()[:, None] - before
    assert torch.allclose(along.square().amax(0), left.amax(0), rtol=1e-4)


@pytest.mark.parametrize("exponent", [-60, 0, 60])
def test_energies_are_what_is_lost_where_only_the_first_rows_stay(exponent: int) -> None:
    vectors = (uniform(6, 50) + 2 * uniform(1, 50, seed=1)) * 2.0**exponent
    basis, energies = orthonormal(vectors)
    wide, rows = vectors.double(), basis.double()
    for k in range(7):
        kept = wide @ rows[:k].T @ rows[:k]
        total = float(wide.square().sum())
        assert math.fsum(energies[k:]) == pytest.approx(
            float((wide - kept).square().sum()), rel=1e-4, abs=1e-6 * total
        )
    best = torch.linalg.svdvals(wide).square().cumsum(0).tolist()
    assert all(math.fsum(energies[: k + 1]) <= best[k] * (1 + 1e-6) for k in range(6))


def test_equal_vectors_come_in_their_order_and_what_adds_nothing_holds_nothing() -> None:
    basis, energies = orthonormal(torch.tensor([[0.0, 0.0, 3.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0]]))
    assert basis.tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert energies == [9.0, 18.0, 0.0]


def test_leading_energies_come_near_the_squared_singular_values() -> None:
    left, right = basis_of(uniform(20, 40)), basis_of(uniform(20, 60, seed=1))
    values = 0.7 ** torch.arange(20.0)
    matrix = left.T @ (values[:, None] * right)
    first = basis_of(uniform(6, 40, seed=2))
    got = leading_energies(matrix, first, iterations=5)
    assert got == pytest.approx(values[:6].square().tolist(), rel=0.02)
    # Without iterations it is what the given directions hold.
    held = math.fsum(leading_energies(matrix, first, iterations=0))
    assert held == pytest.approx(float((first @ matrix).square().sum()), rel=1e-5)


def test_badly_conditioned_vectors_still_give_an_orthonormal_basis() -> None:
    common = uniform(1, 300)
    nearly_equal = common + 1e-4 * uniform(12, 300, seed=1)
    assert is_orthonormal(basis_of(nearly_equal))
    decaying = uniform(12, 300) * torch.logspace(0, -30, 12)[:, None]
    assert is_orthonormal(basis_of(decaying))


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 3e38])
def test_magnitude_does_not_matter(scale: float) -> None:
    basis = basis_of(uniform(6, 40) * scale)
    assert is_orthonormal(basis)
    assert torch.allclose(basis, basis_of(uniform(6, 40)), atol=1e-4)


def test_zero_rows_become_the_first_unit_vectors() -> None:
    assert torch.equal(basis_of(torch.zeros(3, 5)), torch.eye(5)[:3])
    assert torch.equal(basis_of(torch.zeros(4, 4)), torch.eye(4))


def test_dependent_rows_are_replaced_and_the_others_kept() -> None:
    a, b = uniform(1, 30), uniform(1, 30, seed=1)
    basis = basis_of(torch.cat([a, 2 * a, b, a - b, torch.zeros(1, 30)]))
    assert is_orthonormal(basis)
    # a and b lie in what rows 0 and 2 span; row 1 may have taken a bit of b.
    left = torch.cat([a, b]).double()
    left = left - left @ basis[:3].double().T @ basis[:3].double()
    assert left.abs().max() < 1e-5


def test_what_rounding_leaves_of_a_dependent_row_is_no_direction() -> None:
    a, b = uniform(1, 500), uniform(1, 500, seed=1)
    unit = torch.zeros(1, 500)
    least = (basis_of(torch.cat([a, b])) ** 2).sum(0).argmin()
    unit[0, least] = 1.0
    dependent, explicit = (basis_of(torch.cat([a, b, c])) for c in (a / 3 - b / 7, unit))
    assert torch.allclose(dependent, explicit, atol=1e-6)


def test_more_vectors_than_elements_are_refused() -> None:
    with pytest.raises(ValueError, match="3 vectors of 2 elements"):
        basis_of(torch.ones(3, 2))


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 10**6), st.integers(0, 9))
def test_any_finite_vectors_give_a_basis(r: int, more: int, seed: int, zeros: int) -> None:
    vectors = uniform(r, r + more, seed=seed)
    vectors[:zeros] = vectors[:zeros].round()  # many dependent and zero rows
    assert is_orthonormal(basis_of(vectors))


@pytest.mark.parametrize("n", [1, 2, 5, 37, 64])
def test_the_cosine_matrix_is_orthonormal_and_is_the_formula(n: int) -> None:
    matrix = dct_matrix(n)
    assert is_orthonormal(matrix)
    k, j = torch.arange(n).double()[:, None], torch.arange(n).double()
    formula = torch.cos(math.pi * k * (2 * j + 1) / (2 * n)) * (2 / n) ** 0.5
    formula[0] /= 2**0.5
    assert (matrix - formula).abs().max() < 1e-7


def test_seeded_values_are_uniform_and_differ_by_seed() -> None:
    values = seeded_uniform((3, 4), 20_000)
    assert values.dtype == torch.float32
    assert -1.0 <= float(values.min()) < -0.999 < 0.999 < float(values.max()) < 1.0
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.var()) - 1 / 3) < 0.01
    assert not torch.equal(values, seeded_uniform((4, 3), 20_000))


LARGE, TALL = (9, 40_000), uniform(9, 300)
BITS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "seeded_bits": (lambda: torch.from_numpy(seeded_bits((1, 2), 100).view(np.int64)), "b98004c285c8119e"),
    "pairwise_sum": (lambda: pairwise_sum(uniform(*LARGE)), "482a39ea691ec94e"),
    "outer": (
        lambda: sum_of_outer_products(TALL, uniform(*LARGE), torch.empty(300, 40_000)),
        "4ad36d97508cb726",
    ),
    "orthonormal": (lambda: basis_of(uniform(*LARGE)), "a26090cde264c0fa"),
    "dct_matrix": (lambda: dct_matrix(64), "23ad299315db91c9"),
}


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("threads", [1, 2])
def test_these_bits_are_the_same_on_every_machine(name: str, threads: int) -> None:
    function, digest = BITS[name]
    torch.set_num_threads(threads)
    try:
        assert sha256(function().numpy().tobytes()).hexdigest()[:16] == digest
    finally:
        torch.set_num_threads(1)
