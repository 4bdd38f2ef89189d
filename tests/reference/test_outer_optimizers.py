"""Every outer optimizer, and schedules of its rates, in DiLoCo's loop (arXiv 2311.08105) against the whole
stack.

An outer rate is a number, or pairs of an outer step (from 0) and a value: linear in between, constant
outside. Each formula takes the rates of its own outer step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.reference import kit
from tests.reference.arithmetic import Values, zeros
from tests.reference.problem import Net, values
from tests.reference.synchronous import OuterOpt, reference

ROUNDS, EVERY, TOKENS = 7, 3, (8, 24, 16)
PAYLOAD = 4 * sum(value.numel() for value in values(Net()).values())

Rate = float | list[list[float]]


def at(rate: Rate, count: int) -> float:
    """The rate at outer step ``count``."""
    if isinstance(rate, float):
        return rate
    if count <= rate[0][0]:
        return rate[0][1]
    for (start, low), (end, high) in pairwise(rate):
        if count <= end:
            return low + (high - low) * (count - start) / (end - start)
    return rate[-1][1]


def sgd(lr: Rate, momentum: Rate) -> OuterOpt:
    """theta <- theta - eta Delta  (FedAvg with a server's rate; eta = 1 is averaging)."""
    return lambda theta, delta, t: {n: theta[n] - at(lr, t) * delta[n] for n in theta}


def sign(lr: Rate, momentum: Rate) -> OuterOpt:
    """theta <- theta - eta sign(Delta)  (DeMo's phi, arXiv 2411.19870)."""
    return lambda theta, delta, t: {n: theta[n] - at(lr, t) * delta[n].sign() for n in theta}


def nesterov(lr: Rate, momentum: Rate, clip: float = 0.0, penalty: float = 1.0) -> OuterOpt:
    """buf <- mu buf + Delta;  theta <- theta - eta (Delta + mu buf)  (torch's form, DiLoCo's code)."""
    buffer: Values = {}

    def step(theta: Values, delta: Values, t: int) -> Values:
        buffer.update(buffer or zeros(theta))
        new = {}
        for n in theta:
            change = delta[n] / penalty
            buffer[n] = clipped(at(momentum, t) * buffer[n] + change, clip)
            new[n] = theta[n] - at(lr, t) * (change + at(momentum, t) * buffer[n])
        return new

    return step


def heavy_ball(lr: Rate, momentum: Rate, clip: float = 0.0, penalty: float = 1.0) -> OuterOpt:
    """m <- clip(beta m + Delta / Lambda, -phi, phi);  theta <- theta - alpha m  (CO2, arXiv 2401.16265;
    SlowMo's without clip and penalty)."""
    buffer: Values = {}

    def step(theta: Values, delta: Values, t: int) -> Values:
        buffer.update(buffer or zeros(theta))
        for n in theta:
            buffer[n] = clipped(at(momentum, t) * buffer[n] + delta[n] / penalty, clip)
        return {n: theta[n] - at(lr, t) * buffer[n] for n in theta}

    return step


def clipped(x: torch.Tensor, bound: float) -> torch.Tensor:
    return x.clamp(-bound, bound) if bound else x


def adam(lr: Rate, momentum: Rate, beta2: float = 0.95, epsilon: float = 0.1) -> OuterOpt:
    """m <- b1 m + (1 - b1) Delta;  v <- b2 v + (1 - b2) Delta^2;
    theta <- theta - eta (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon), t from 1  (DiLoCo's outer Adam,
    epsilon 0.1)."""
    first: Values = {}
    second: Values = {}

    def step(theta: Values, delta: Values, t: int) -> Values:
        first.update(first or zeros(theta))
        second.update(second or zeros(theta))
        beta1, new = at(momentum, t), {}
        for n in theta:
            first[n] = beta1 * first[n] + (1 - beta1) * delta[n]
            second[n] = beta2 * second[n] + (1 - beta2) * delta[n] ** 2
            mean = first[n] / (1 - beta1 ** (t + 1))
            variance = second[n] / (1 - beta2 ** (t + 1))
            new[n] = theta[n] - at(lr, t) * mean / (variance.sqrt() + epsilon)
        return new

    return step


def delayed_nesterov(lr: Rate, momentum: Rate, every: int = 3) -> OuterOpt:
    """D <- D + Delta;  at each K-th: m <- beta m + D / K, theta <- theta - eta (beta m + Delta / K), D <- 0;
    else:  theta <- theta - eta Delta / K  (arXiv 2401.09135 with c = 0)."""
    total: Values = {}
    buffer: Values = {}

    def step(theta: Values, delta: Values, t: int) -> Values:
        total.update(total or zeros(theta))
        buffer.update(buffer or zeros(theta))
        new = {}
        for n in theta:
            total[n] = total[n] + delta[n]
            change = delta[n] / every
            if (t + 1) % every == 0:
                buffer[n] = at(momentum, t) * buffer[n] + total[n] / every
                change = change + at(momentum, t) * buffer[n]
                total[n] = torch.zeros_like(total[n])
            new[n] = theta[n] - at(lr, t) * change
        return new

    return step


def check(outer: str, optimizer: OuterOpt, lr: Rate, momentum: Rate, **parts: Any) -> None:
    """The stack in simulated time equals the loop."""
    method = {
        "preset": "diloco",
        "sync_every": EVERY,
        "codec": "fp32",
        "outer": outer,
        "outer_lr": lr,
        "outer_momentum": momentum,
        **parts,
    }
    found = kit.simulated(method, ROUNDS * EVERY, TOKENS)
    kit.assert_same(found, reference(TOKENS, optimizer, rounds=ROUNDS, every=EVERY))
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])


RULES: Sequence[tuple[str, Callable[..., OuterOpt], float, float, dict[str, Any], dict[str, Any]]] = [
    ("sgd", sgd, 0.8, 0.0, {}, {}),
    ("sign", sign, 1e-3, 0.0, {}, {}),
    ("nesterov", nesterov, 0.7, 0.9, {}, {}),
    (
        "nesterov",
        nesterov,
        0.7,
        0.9,
        {"clip": 0.01, "penalty": 1.5},
        {"outer_clip": 0.01, "outer_penalty": 1.5},
    ),
    ("heavy_ball", heavy_ball, 0.7, 0.5, {}, {}),
    (
        "heavy_ball",
        heavy_ball,
        0.9,
        0.5,
        {"clip": 0.01, "penalty": 2.0},
        {"outer_clip": 0.01, "outer_penalty": 2.0},
    ),
    ("adam", adam, 0.3, 0.9, {"beta2": 0.99, "epsilon": 0.05}, {"outer_beta2": 0.99, "outer_epsilon": 0.05}),
    ("delayed_nesterov", delayed_nesterov, 0.7, 0.9, {"every": 3}, {"outer_every": 3}),
]


@pytest.mark.parametrize(("outer", "rule", "lr", "momentum", "options", "parts"), RULES)
def test_each_outer_optimizer_moves_as_its_paper_says(
    outer: str,
    rule: Callable[..., OuterOpt],
    lr: float,
    momentum: float,
    options: dict[str, Any],
    parts: dict[str, Any],
) -> None:
    check(outer, rule(lr, momentum, **options), lr, momentum, **parts)


@pytest.mark.parametrize(("outer", "rule", "lr", "momentum", "options", "parts"), RULES)
def test_the_outer_learning_rate_follows_its_schedule(
    outer: str,
    rule: Callable[..., OuterOpt],
    lr: float,
    momentum: float,
    options: dict[str, Any],
    parts: dict[str, Any],
) -> None:
    rate = [[1, lr], [4, 0.25 * lr], [5, 0.5 * lr]]
    check(outer, rule(rate, momentum, **options), rate, momentum, **parts)


@pytest.mark.parametrize(
    ("outer", "rule"),
    [("nesterov", nesterov), ("heavy_ball", heavy_ball), ("delayed_nesterov", delayed_nesterov)],
)
def test_the_outer_momentum_follows_its_schedule(outer: str, rule: Callable[..., OuterOpt]) -> None:
    rate = [[0, 0.3], [4, 0.9]]
    parts = {"outer_every": 3} if outer == "delayed_nesterov" else {}
    check(outer, rule(0.7, rate), 0.7, rate, **parts)
