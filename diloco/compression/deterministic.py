"""Linear algebra that gives the same bits on every machine, for what all members must compute alike (S1).

Owns sums, sums of outer products, orthonormal bases, the cosine transform's matrix and seeded numbers. The
order in which `sum`, `dot` and `matmul` add depends on the processor, the number of threads and the library,
and libm's functions differ in the last bit; here everything is elementwise, each operation rounded by itself
in an order that is written down, or exact in any order. Works on the CPU. Knows neither fragments nor what is
sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor

from diloco.compression.vectors import SLICE

DEPENDENT = 2.0**-18
"""A vector of which no more than this share is left without the others' directions counts as dependent: what
is left of it is mostly rounding."""
EXACT_BITS = 53
"""Integers up to 2^53 are exact in fp64."""
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def pairwise_sum(x: Tensor) -> Tensor:
    """Sums of ``x`` [..., n] over its last dimension, [...]. The row is padded with zeros to a power of two
    and then folded, x[:h] + x[h:], until one value is left; the error grows with log n."""
    n = x.shape[-1]
    if n == 0:
        return torch.zeros(x.shape[:-1], device=x.device)
    half = 1 << max(0, (n - 1).bit_length() - 1)  # the largest power of two below n
    x, tail = x[..., :half].clone(), x[..., half:]
    x[..., : tail.shape[-1]].add_(tail)  # what the padding would add to the rest are zeros
    while half > 1:
        half //= 2
        x = x[..., :half] + x[..., half:]
    return x[..., 0]


def sum_of_outer_products(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """out[i, j] = left[0, i] right[0, j] + left[1, i] right[1, j] + ..., of finite values rounded to fixed
    point, exactly, then rounded to what ``out`` holds; [r, m] and [r, n] with 1 <= r <= 2^23 make [m, n].
    Returns ``out``.

    With r <= 2^k terms there are 53 - k bits for the integers of a product, shared by both sides: relative to
    the largest of its column, 2^-22 for up to 2^10 terms. All products and all sums of some of them are then
    integers of at most 53 bits in one unit, which fp64 holds, so that a library may add in any order. A value
    that is not finite leaves nothing finite in its row or column."""
    bits = EXACT_BITS - (len(left) - 1).bit_length()
    left, right = _on_grid(left, bits // 2), _on_grid(right, bits - bits // 2)
    height = max(1, 16 * SLICE // max(1, out.shape[1]))  # of a part in fp64, so that memory is bounded
    for top in range(0, len(out), height):
        rows = slice(top, top + height)
        out[rows] = torch.mm(left[:, rows].t(), right)
    return out


def _on_grid(x: Tensor, bits: int) -> Tensor:
    """``x`` [r, n] in fp64, each column rounded to multiples of 2^-bits times the power of two that is above
    its largest magnitude."""
    x = x.double()
    exponents = np.frexp(x.abs().amax(0).numpy())[1]
    finer, coarser = (torch.from_numpy(np.ldexp(1.0, each)) for each in (bits - exponents, exponents - bits))
    return (x * finer).round_().mul_(coarser)


def orthonormal(vectors: Tensor) -> tuple[Tensor, list[float]]:
    """An orthonormal basis [r, n] of what the rows of ``vectors`` [r, n] span, r <= n, strongest first, and
    how much of their squared lengths each row of it holds: those beyond the first k are exactly what is lost
    of the vectors where only the first k stay.

    Modified Gram-Schmidt with pivots: next comes the vector of which most is left (the first of equals).
    Then once more, in that order. A vector that is zero or depends on those before it is replaced by the unit
    vector that they explain least (the first of equals), less what they explain of it, and holds nothing.
    Finite rows give finite rows, whatever their magnitude. Raises ValueError if r > n."""
    if len(vectors) > vectors.shape[1]:
        raise ValueError(f"{len(vectors)} vectors of {vectors.shape[1]} elements cannot be orthonormal")
    basis, exponents = _scaled(vectors)
    squares = pairwise_sum(basis * basis).double().numpy()
    scales = np.ldexp(1.0, exponents)
    left, energies = squares * scales**2, []
    for k in range(len(basis)):
        pivot = k + int(left[k:].argmax())  # the first of equals
        basis[[k, pivot]] = basis[[pivot, k]]
        for each in (squares, scales, left):
            each[[k, pivot]] = each[[pivot, k]]
        row, rest = basis[k], basis[k + 1 :]
        length = _length(row)
        found = length > DEPENDENT * math.sqrt(squares[k])
        row.copy_(row * (1.0 / length) if found else _missing_direction(basis[:k]))
        along = pairwise_sum(rest * row)
        rest.sub_(along[:, None] * row)
        held = (along.double().numpy() * scales[k + 1 :]) ** 2
        left[k + 1 :] -= held
        energies.append(math.fsum([(length * scales[k]) ** 2, *held]) if found else 0.0)
    for k, row in enumerate(basis):
        row.mul_(1.0 / _length(row))
        rest = basis[k + 1 :]
        rest.sub_(pairwise_sum(rest * row)[:, None] * row)
    return basis, energies


def leading_energies(matrix: Tensor, basis: Tensor, iterations: int) -> list[float]:
    """What as many directions as ``basis`` [r, m] has rows hold of the squared length of ``matrix`` [m, n],
    strongest first: subspace iteration that begins there, towards the squared singular values."""
    r, (m, n) = len(basis), matrix.shape
    for step in range(iterations + 1):
        right, energies = orthonormal(sum_of_outer_products(basis.t(), matrix, torch.empty(r, n)))
        if step < iterations:
            basis, _ = orthonormal(sum_of_outer_products(right.t(), matrix.t(), torch.empty(r, m)))
    return energies


def _missing_direction(basis: Tensor) -> Tensor:
    """A unit vector [n] that is orthogonal to the orthonormal rows of ``basis`` [k, n], k < n."""
    explained = torch.zeros(basis.shape[1])
    for row in basis:
        explained.add_(row * row)
    index = int(explained.numpy().argmin())  # numpy promises the first of equals, torch does not
    direction = torch.zeros(basis.shape[1])
    direction[index] = 1.0
    for row in basis:
        direction.sub_(row * float(row[index]))
    return direction.mul_(1.0 / _length(direction))


def _length(x: Tensor) -> float:
    return math.sqrt(float(pairwise_sum(x * x)))


def _scaled(vectors: Tensor) -> tuple[Tensor, list[int]]:
    """A copy of the rows, each divided by a power of two so that its largest magnitude is near 1 and squares
    stay in range, and the exponents. Exact."""
    largest = vectors.abs().amax(1).tolist() if vectors.numel() else [0.0] * len(vectors)
    exponents = [min(max(math.frexp(value)[1], -125), 125) for value in largest]
    scales = torch.tensor([math.ldexp(1.0, -exponent) for exponent in exponents])
    return vectors * scales[:, None], exponents


def seeded_bits(entropy: Sequence[int], n: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """``n`` draws of 64 random bits from non-negative integers. PCG64's own stream, which numpy never
    changes, as it may change how the methods of its Generator use it."""
    return np.asarray(np.random.PCG64(np.random.SeedSequence(list(entropy))).random_raw(n), dtype=np.uint64)


def seeded_uniform(entropy: Sequence[int], n: int) -> Tensor:
    """``n`` fp32 values, uniform in [-1, 1): multiples of 2^-23, so exact."""
    integers = (seeded_bits(entropy, n) >> np.uint64(40)).astype(np.int64) - 2**23
    return torch.from_numpy(integers.astype(np.float32)).mul_(2.0**-23)


@cache
def dct_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II [n, n] fp32, frequencies along rows:

        D[k, j] = sqrt((2 - [k = 0]) / n) cos(pi k (2 j + 1) / (2 n))

    In decimal arithmetic of 40 digits, which is the same everywhere, then rounded. Shared: never write to
    it."""
    with localcontext() as context:
        context.prec = 40
        # cos(pi m / 2n) has period 4n in m.
        cosines = [_cosine(PI * m / (2 * n)) for m in range(4 * n)]
        scales = [(Decimal(2 if k else 1) / n).sqrt() for k in range(n)]
        rows = [[float(scales[k] * cosines[k * (2 * j + 1) % (4 * n)]) for j in range(n)] for k in range(n)]
    return torch.tensor(rows)


def _cosine(angle: Decimal) -> Decimal:
    """Taylor's series, for 0 <= angle <= 2 pi: all digits but the last few of the context's."""
    total = term = Decimal(1)
    for k in range(2, 100, 2):
        term *= -angle * angle / (k * (k - 1))
        total += term
    return total
