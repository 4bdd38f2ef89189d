"""Sums over named tensors, for the loops of this directory.

Plain torch. Owns what nearly every paper writes down in the same words: the weighted mean over workers, the
pseudo-gradient, and SGD with Nesterov momentum in torch's convention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median_low

import torch
from torch import Tensor

Values = dict[str, Tensor]
"""Tensors by name."""


def zeros(like: Values) -> Values:
    return {name: torch.zeros_like(value) for name, value in like.items()}


def only(names: Iterable[str], of: Values) -> Values:
    """Copies of the named ones."""
    return {name: of[name].clone() for name in names}


def minus(a: Values, b: Values, scale: float = 1.0) -> Values:
    """a - scale b, for the names of a."""
    return {name: value - scale * b[name] for name, value in a.items()}


def plus(a: Values, b: Values, scale: float = 1.0) -> Values:
    """a + scale b, for the names of a."""
    return minus(a, b, -scale)


def mean(parts: Sequence[Values], weights: Sequence[float]) -> Values:
    """sum_m w_m x_m / sum_m w_m, for the names of the first part."""
    return {
        name: torch.stack([w * each[name] for w, each in zip(weights, parts, strict=True)]).sum(0)
        / sum(weights)
        for name in parts[0]
    }


def norm(of: Values) -> float:
    """The Euclidean norm of all values together."""
    return float(torch.cat([value.flatten() for value in of.values()]).norm())


def limited(weights: Sequence[float], norms: Sequence[float]) -> list[float]:
    """min(w, 4 x lower median of weights) x min(1, 3 x lower median of norms / norm) from 4 members on; below
    that weights stand as offered."""
    if len(weights) < 4:
        return list(weights)
    weight, length = median_low(weights), median_low(norms)
    return [min(w, 4 * weight) * min(1.0, 3 * length / n) for w, n in zip(weights, norms, strict=True)]


class Nesterov:
    """buf <- mu buf + Delta;  theta <- theta - lr (Delta + mu buf), as torch.optim.SGD does it (DiLoCo's code
    and its descendants')."""

    def __init__(self, lr: float, momentum: float) -> None:
        self.lr, self.momentum = lr, momentum
        self.buffer: Values = {}

    def step(self, theta: Values, delta: Values) -> Values:
        """New values for the names of ``delta``."""
        new = {}
        for name, value in delta.items():
            self.buffer[name] = self.momentum * self.buffer.get(name, torch.zeros_like(value)) + value
            new[name] = theta[name] - self.lr * (value + self.momentum * self.buffer[name])
        return new
