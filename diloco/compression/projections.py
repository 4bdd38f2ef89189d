"""Projections: linear maps that make a fragment's vector shorter before a codec encodes it.

Owns what every projection promises, and the identity, the random mask and the blockwise cosine transform;
low-rank factors are in `low_rank`. Refuses to own codecs, error feedback and rounds. A projection holds no
state: what members must share is one fp32 tensor that the caller keeps with the outer state. `first_state`,
`lift` and `next_state` give the same bits on every machine (S1); `project` is one worker's own affair and
uses whatever is fast. All vectors are fp32 on the CPU; for a given state everything is linear, so that the
mean of what was sent lifts to what the mean would have been."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diloco.compression.deterministic import dct_matrix, seeded_bits, sum_of_outer_products


class Projection(Protocol):
    """A map from vectors x [num_elements] to y [length], as a rule shorter, and back. ``round_index`` counts
    the fragment's rounds and is not negative; ``state`` is what `first_state` or `next_state` gave, and
    always of the same size."""

    num_elements: int
    max_sent: int
    """The largest `length` under any state."""

    def first_state(self) -> Tensor:
        """The state [s] to begin with, the same bits on every machine."""

    def sketches(self, state: Tensor) -> bool:
        """Whether a round under this state moves the state alone: the first of two exchanges of an outer
        step, whose y stands for no x and is not lifted."""

    def length(self, state: Tensor) -> int:
        """Elements of y under this state."""

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        """y [length] of x [num_elements]; may be ``x`` itself."""

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        """x [num_elements] of y [length], new or ``y`` itself; the same bits on every machine."""

    def next_state(self, y_mean: Tensor, state: Tensor, round_index: int) -> Tensor:
        """The state [s] after a round with this averaged y, a new tensor; the same bits on every machine."""

    def support(self, round_index: int) -> Tensor | None:
        """The indices [length] int64, rising, of the only elements that this round touches; None for all."""

    def sync_every(self, state: Tensor) -> int | None:
        """H that goes with this state, None if H does not adapt."""

    def momentum_scale(self, y_mean: Tensor, state: Tensor) -> float:
        """What the outer momentum is multiplied by in the round with this averaged y; 1 as a rule."""


class _Stateless:
    """What projections have in common that share nothing but their settings."""

    def __init__(self, num_elements: int, max_sent: int) -> None:
        self.num_elements, self.max_sent = num_elements, max_sent

    def first_state(self) -> Tensor:
        return torch.empty(0)

    def next_state(self, y_mean: Tensor, state: Tensor, round_index: int) -> Tensor:
        return torch.empty(0)

    def sketches(self, state: Tensor) -> bool:
        return False

    def length(self, state: Tensor) -> int:
        return self.max_sent

    def sync_every(self, state: Tensor) -> int | None:
        return None

    def momentum_scale(self, y_mean: Tensor, state: Tensor) -> float:
        return 1.0


class IdentityProjection(_Stateless):
    """The vector itself, without a copy: what methods without a projection send."""

    def __init__(self, num_elements: int) -> None:
        super().__init__(num_elements, max_sent=num_elements)

    def support(self, round_index: int) -> None:
        return None

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        return x

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        return y


class WithInnerLr(_Stateless):
    """The vector itself and one number after it, the inner learning rate of whoever offers it, which the
    caller fills in. The state [1] is the mean of it in the last round, 0 before the first: so that SlowMo's
    (arXiv 1910.00643) momentum can be scaled as the inner learning rate changes. A mean that is not above 0
    says nothing, and the one before it stays."""

    def __init__(self, num_elements: int) -> None:
        super().__init__(num_elements, max_sent=num_elements + 1)

    def first_state(self) -> Tensor:
        return torch.zeros(1)

    def next_state(self, y_mean: Tensor, state: Tensor, round_index: int) -> Tensor:
        return y_mean[-1:].clone() if float(y_mean[-1]) > 0.0 else state.clone()

    def support(self, round_index: int) -> None:
        return None

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        return torch.cat([x, x.new_zeros(1)])

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        return y[:-1]

    def momentum_scale(self, y_mean: Tensor, state: Tensor) -> float:
        before, now = float(state[0]), float(y_mean[-1])
        return now / before if before > 0.0 and now > 0.0 else 1.0


class RandomMask(_Stateless):
    """One element of each run of ``one_in``, drawn anew each round from ``seed`` and the round's index, so
    that no index is ever sent: the common mask of SPARTA (exo labs) and the random replicator of FlexDeMo,
    stratified, so that the number is exact, ceil(n / one_in). Lifting leaves zeros elsewhere."""

    def __init__(self, num_elements: int, one_in: int, seed: int) -> None:
        if one_in < 1:
            raise ValueError(f"one_in is {one_in}: a mask takes one of at least 1 element")
        super().__init__(num_elements, max_sent=-(-num_elements // one_in))
        self._one_in, self._seed = one_in, seed

    def support(self, round_index: int) -> Tensor:
        starts = np.arange(0, self.num_elements, self._one_in)
        widths = np.minimum(self.num_elements - starts, self._one_in)
        # The remainder's bias is below one_in / 2^64.
        draws = seeded_bits((self._seed, round_index), len(starts)) % widths.astype(np.uint64)
        return torch.from_numpy(starts + draws.astype(np.int64))

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        return x[self.support(round_index)]

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        x = torch.zeros(self.num_elements)
        x[self.support(round_index)] = y
        return x


class Dct(_Stateless):
    """The orthonormal DCT-II of each ``block`` consecutive elements, the last block shorter: DeMo (arXiv
    2411.19870) keeps the largest coefficients of it, which is left to a codec. As long as the vector."""

    def __init__(self, num_elements: int, block: int = 64) -> None:
        if block < 1:
            raise ValueError(f"block is {block}: a block has at least 1 element")
        super().__init__(num_elements, max_sent=num_elements)
        self._block = block

    def support(self, round_index: int) -> None:
        return None

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        y = torch.empty_like(x)
        for source, target in self._blocked(x, y):
            torch.mm(source, dct_matrix(source.shape[1]).t(), out=target)
        return y

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        x = torch.empty_like(y)
        for source, target in self._blocked(y, x):
            sum_of_outer_products(source.t(), dct_matrix(source.shape[1]), out=target)
        return x

    def _blocked(self, *vectors: Tensor) -> Iterator[list[Tensor]]:
        """Views [blocks, size] of the vectors: those of full size, then the short one; each if it is
        there."""
        whole = self.num_elements // self._block * self._block
        if whole:
            yield [vector[:whole].view(-1, self._block) for vector in vectors]
        if whole < self.num_elements:
            yield [vector[whole:].view(1, -1) for vector in vectors]
