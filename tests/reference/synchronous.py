"""The loop that most methods share: all workers train H steps, all wait, one outer step, all begin from it.

DiLoCo (arXiv 2311.08105), algorithm 1, with the outer optimizer left open. Plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from tests.reference.arithmetic import Values, limited, mean, minus, norm
from tests.reference.problem import MakeOptimizer, Net, Seen, sgd, values, workers

OuterOpt = Callable[[Values, Values, int], Values]
"""(theta, mean pseudo-gradient, number of the outer step from 0) -> theta."""


def reference(
    tokens: Sequence[float],
    outer: OuterOpt,
    *,
    rounds: int,
    every: int,
    make_optimizer: MakeOptimizer = sgd,
    make_model: Callable[[], nn.Module] = Net,
) -> list[Seen]:
    """Of each worker, what `kit` sees of it.

    theta_m <- theta;  H times: theta_m <- InnerOpt_m(theta_m);  Delta_m = theta - theta_m;
    Delta = sum_m w_m Delta_m / sum_m w_m (non-iid shards: weighted by their size, as far as one
    may move the mean: `arithmetic.limited`);
    theta <- OuterOpt(theta, Delta)."""
    group = workers(len(tokens), make_optimizer, make_model)
    seen = [Seen() for _ in group]
    theta = values(group[0].model)
    for count in range(rounds):
        for each in group:
            for _ in range(every):
                seen[each.index].starts.append(values(each.model))
                each.train()
        deltas = [minus(theta, values(each.model)) for each in group]
        theta = outer(theta, mean(deltas, limited(tokens, [norm(each) for each in deltas])), count)
        for each in group:
            each.load(theta)
    for each in group:
        seen[each.index].starts.append(theta)
        seen[each.index].outer, seen[each.index].outer_steps = theta, [rounds]
    return seen
