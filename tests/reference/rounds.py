"""The rounds that methods without overlap have in common, for loops that say what is averaged and how.

Every worker trains H inner steps from the outer parameters and offers what it moved by, as one flat vector;
what comes of the offers is the loop's own. Plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.reference.problem import MakeModel, MakeOptimizer, Net, sgd, values, workers


@dataclass
class Told:
    """What a loop came to."""

    starts: list[list[dict[str, Tensor]]] = field(default_factory=list)
    """By worker, its parameters before each inner step."""
    outer: dict[str, Tensor] = field(default_factory=dict)
    """Outer parameters at the end."""
    largest: float = 0.0
    """The largest magnitude in a pseudo-gradient."""


def flat(named: dict[str, Tensor]) -> Tensor:
    """The tensors one after the other, in the order in which modules registered them."""
    return torch.cat([value.reshape(-1) for value in named.values()])


def unflat(vector: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vector's parts, with names and shapes."""
    parts = vector.split([value.numel() for value in like.values()])
    return {name: part.reshape(like[name].shape).clone() for name, part in zip(like, parts, strict=True)}


def weighted_mean(shares: Sequence[float], of: Sequence[Tensor]) -> Tensor:
    """sum_i w_i x_i / sum_i w_i"""
    return torch.stack([share / sum(shares) * each for share, each in zip(shares, of, strict=True)]).sum(0)


def in_rounds(
    num_workers: int,
    rounds: int,
    every: int,
    outer_step: Callable[[Tensor, list[Tensor]], Tensor],
    make_optimizer: MakeOptimizer = sgd,
    make_model: MakeModel = Net,
    along: Sequence[dict[str, Tensor]] = (),
) -> Told:
    """``outer_step(theta, deltas)`` makes the new outer parameters of the old ones and of everyone's
    pseudo-gradient theta - theta_m.

    Where a value is rounded to few levels, the last bit decides now and then between two of them, and all
    that follows is another story. So a loop may go ``along`` with the parameters of somebody else before
    each inner step: each round begins with those, and is told of as it would have gone on from there."""
    group = workers(num_workers, make_optimizer, make_model)
    shape = values(group[0].model)
    theta = flat(shape)
    told = Told([[] for _ in group])
    for index in range(rounds):
        for starts in told.starts:
            starts.append(unflat(theta, shape))
        if along:
            theta = flat(along[index * every])
            for each in group:
                each.load(along[index * every])
        for each in group:
            each.train()
            for _ in range(every - 1):
                told.starts[each.index].append(values(each.model))
                each.train()
        deltas = [theta - flat(values(each.model)) for each in group]
        told.largest = max(told.largest, *(float(delta.abs().max()) for delta in deltas))
        theta = outer_step(theta, deltas)
        for each in group:
            each.load(unflat(theta, shape))
    told.outer = unflat(theta, shape)
    for starts in told.starts:
        starts.append(told.outer)
    return told


def num_parameters(make_model: MakeModel) -> int:
    return sum(parameter.numel() for parameter in make_model().parameters())
