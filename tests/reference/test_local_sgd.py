"""Local SGD (arXiv 1805.09767) and SlowMo (arXiv 1910.00643) against the whole stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.reference import kit
from tests.reference.arithmetic import mean, minus, plus, zeros
from tests.reference.problem import MakeOptimizer, Net, Seen, sgd, values, workers

ROUNDS, EVERY = 6, 4
PAYLOAD = 4 * sum(value.numel() for value in values(Net()).values())
GAMMA = 0.05


def local_sgd(tokens: tuple[int, ...]) -> list[Seen]:
    """theta_m <- theta_m - gamma g_m;  every H steps theta_m <- mean_j theta_j (weighted by tokens)."""
    group = workers(len(tokens))
    seen = [Seen() for _ in group]
    for _ in range(ROUNDS):
        for each in group:
            for _ in range(EVERY):
                seen[each.index].starts.append(values(each.model))
                each.train()
        average = mean([values(each.model) for each in group], tokens)
        for each in group:
            each.load(average)
            seen[each.index].outer = average
    for each in group:
        seen[each.index].starts.append(values(each.model))
        seen[each.index].outer_steps = [ROUNDS]
    return seen


def slowmo(
    tokens: tuple[int, ...],
    alpha: Callable[[int], float],
    beta: float,
    make_optimizer: MakeOptimizer = sgd,
) -> list[Seen]:
    """u <- beta u + (theta_0 - mean theta_tau) / gamma;  theta <- theta_0 - alpha gamma u, where gamma is the
    inner learning rate that this round was trained with (the mean over workers, where they differ)."""
    group = workers(len(tokens), make_optimizer)
    seen = [Seen() for _ in group]
    theta = values(group[0].model)
    u = zeros(theta)
    for count in range(ROUNDS):
        for each in group:
            for _ in range(EVERY):
                seen[each.index].starts.append(values(each.model))
                each.train()
        rates = [each.optimizer.param_groups[0]["lr"] for each in group]
        gamma = sum(rates) / len(rates)
        change = minus(theta, mean([values(each.model) for each in group], tokens))
        u = plus({name: beta * value for name, value in u.items()}, change, 1 / gamma)
        theta = minus(theta, u, alpha(count) * gamma)
        for each in group:
            each.load(theta)
    for each in group:
        seen[each.index].starts.append(theta)
        seen[each.index].outer, seen[each.index].outer_steps = theta, [ROUNDS]
    return seen


def decaying(*first: float) -> MakeOptimizer:
    """SGD whose learning rate changes after every H steps. The optimizers that it makes one after the other
    begin at the rates of ``first``."""
    made = iter(first)

    def make(model: nn.Module) -> torch.optim.Optimizer:
        rate = next(made)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        steps = iter(range(10**9))

        def follow(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            optimizer.param_groups[0]["lr"] = rate * 0.6 ** (next(steps) // EVERY)

        optimizer.register_step_pre_hook(follow)
        return optimizer

    return make


def stack(
    name: str, tokens: tuple[int, ...], make_optimizer: MakeOptimizer = sgd, **parts: Any
) -> list[Seen]:
    method = {"preset": name, "sync_every": EVERY, "codec": "fp32", **parts}
    found = kit.simulated(method, ROUNDS * EVERY, tokens, make_optimizer)
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])
    return found


def test_local_sgd_is_the_average_of_parameters() -> None:
    tokens = (8, 24, 16)
    kit.assert_same(stack("local_sgd", tokens), local_sgd(tokens))


def test_slowmo_moves_by_slow_momentum() -> None:
    tokens = (8, 24, 16)
    kit.assert_same(stack("slowmo", tokens), slowmo(tokens, lambda t: 1.0, 0.5))
    found = stack("slowmo", tokens, outer_lr=0.8, outer_momentum=0.7)
    kit.assert_same(found, slowmo(tokens, lambda t: 0.8, 0.7))


def test_slowmo_rescales_its_momentum_when_the_inner_learning_rate_changes() -> None:
    tokens = (8, 24)
    found = stack("slowmo", tokens, decaying(GAMMA, GAMMA))
    kit.assert_same(found, slowmo(tokens, lambda t: 1.0, 0.5, decaying(GAMMA, GAMMA)))


def test_slowmo_takes_the_mean_of_different_inner_learning_rates() -> None:
    tokens, rates = (8, 8), (GAMMA, 0.4 * GAMMA)
    found = stack("slowmo", tokens, decaying(*rates))
    kit.assert_same(found, slowmo(tokens, lambda t: 1.0, 0.5, decaying(*rates)))


def test_slowmo_follows_a_schedule_of_its_rate() -> None:
    tokens = (8, 24)
    found = stack("slowmo", tokens, decaying(GAMMA, GAMMA), outer_lr=[[0, 1.0], [4, 0.5]])
    expected = slowmo(tokens, lambda t: max(0.5, 1.0 - t / 8), 0.5, decaying(GAMMA, GAMMA))
    kit.assert_same(found, expected)
