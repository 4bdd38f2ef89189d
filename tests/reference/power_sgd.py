"""PowerSGD (arXiv 1905.13727), which DiLoCoX sends pseudo-gradients by: its equations in plain torch.

The first basis is drawn from a seed that all share. Only the space of the first orth(P) matters to what comes
after, and that can be read off the first update, so a loop takes it from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Named = dict[str, Tensor]

SHOWS = 1e-4
"""A singular value that is smaller, as a share of the largest, is the rounding of parameters in fp32."""


def matrix(x: Tensor) -> Tensor:
    """[shape[0], rest]"""
    return x.reshape(x.shape[0], -1).double()


def compressed(x: Tensor, rank: int) -> bool:
    """A tensor of two or more dimensions whose factors are smaller: r (m + n) < m n. Others travel whole."""
    return x.dim() >= 2 and rank * sum(matrix(x).shape) < x.numel()


def space(update: Named, rank: int) -> Named:
    """Of each matrix of an update that ``rank`` compresses, an orthonormal basis [m, r] of its columns."""
    bases = {}
    for name, value in update.items():
        if compressed(value, rank):
            left, size, _ = torch.linalg.svd(matrix(value), full_matrices=False)
            bases[name] = left[:, : int((size > SHOWS * size[0]).sum())]
            assert bases[name].shape[1] <= rank, f"the update of {name} is of a higher rank than {rank}"
    return bases


def effective_rank(update: Named, rank: int) -> float:
    """The fewest singular values that hold 99 % of the squared sum; of all compressed matrices the mean, in
    which each counts by its rows and columns, which are what a rank costs."""
    ranks, costs = [], []
    for value in update.values():
        if compressed(value, rank):
            energy = torch.linalg.svdvals(matrix(value)).square()
            ranks.append(1 + int((energy.cumsum(0) < 0.99 * energy.sum()).sum()))
            costs.append(sum(matrix(value).shape))
    return sum(cost * each for cost, each in zip(costs, ranks, strict=True)) / sum(costs)


def floats(like: Named, rank: int) -> int:
    """Values of the two factors and of what travels whole."""
    return sum(
        rank * sum(matrix(value).shape) if compressed(value, rank) else value.numel()
        for value in like.values()
    )


@dataclass
class PowerSgd:
    """The factors of every matrix, over rounds. In each round:

        P = mean(M_i Q);  P^ = orth(P);  Q = mean(M_i^T P^);  the update is P^ Q^T

    and the next round begins with this Q. ``given`` is P^ of rounds that do not begin so: of the first one,
    and of those with other ranks than the one before. What is compressed is decided by the first ``rank``.
    """

    rank: int
    shares: Sequence[float]
    given: dict[int, Named]
    q: Named = field(default_factory=dict)
    rounds: int = 0

    def step(self, parts: Sequence[Named]) -> tuple[Named, list[Named]]:
        """Of everyone's M_i: the update, and what each has sent of its own, P^ (M_i^T P^)^T."""
        update: Named = {}
        sent: list[Named] = [{} for _ in parts]
        for name, like in parts[0].items():
            if not compressed(like, self.rank):
                update[name] = self._mean([each[name] for each in parts])
                for own, each in zip(sent, parts, strict=True):
                    own[name] = each[name]
                continue
            ms = [matrix(each[name]) for each in parts]
            if self.rounds in self.given:
                p_hat = self.given[self.rounds][name]
            else:
                p_hat, _ = torch.linalg.qr(self._mean([m @ self.q[name] for m in ms]))
            self.q[name] = self._mean([m.T @ p_hat for m in ms])
            update[name] = (p_hat @ self.q[name].T).float().reshape(like.shape)
            for own, m in zip(sent, ms, strict=True):
                own[name] = (p_hat @ (p_hat.T @ m)).float().reshape(like.shape)
        self.rounds += 1
        return update, sent

    def _mean(self, of: Sequence[Tensor]) -> Tensor:
        total = sum(self.shares)
        return torch.stack([share / total * each for share, each in zip(self.shares, of, strict=True)]).sum(0)
