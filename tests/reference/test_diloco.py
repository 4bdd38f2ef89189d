"""DiLoCo (arXiv 2311.08105), algorithm 1, and MuLoCo (arXiv 2505.23725), which is DiLoCo with Muon as the
inner optimizer, against the whole stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference import kit
from tests.reference.arithmetic import Nesterov, Values
from tests.reference.problem import Net, adamw, values
from tests.reference.synchronous import OuterOpt, reference

ROUNDS, EVERY = 5, 4
PAYLOAD = 4 * sum(value.numel() for value in values(Net()).values())
DILOCO = {"preset": "diloco", "sync_every": EVERY, "codec": "fp32"}


def nesterov(lr: float, momentum: float) -> OuterOpt:
    """buf <- mu buf + Delta;  theta <- theta - eta (Delta + mu buf)."""
    optimizer = Nesterov(lr, momentum)
    return lambda theta, delta, count: optimizer.step(theta, delta)


def test_diloco_over_sockets_is_algorithm_1() -> None:
    tokens = (8, 24)
    found = kit.over_sockets(DILOCO, ROUNDS, tokens)
    kit.assert_same(found, reference(tokens, nesterov(0.7, 0.9), rounds=ROUNDS, every=EVERY))
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])


def test_diloco_of_three_over_sockets_is_algorithm_1() -> None:
    tokens = (8, 24, 16)
    found = kit.over_sockets(DILOCO, ROUNDS, tokens, adamw)
    kit.assert_same(
        found, reference(tokens, nesterov(0.7, 0.9), rounds=ROUNDS, every=EVERY, make_optimizer=adamw)
    )
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])


def test_diloco_in_simulated_time_is_algorithm_1() -> None:
    tokens = (8, 24, 16)
    found = kit.simulated(DILOCO, ROUNDS * EVERY, tokens)
    kit.assert_same(found, reference(tokens, nesterov(0.7, 0.9), rounds=ROUNDS, every=EVERY))
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])


def test_diloco_of_several_chunks_is_algorithm_1() -> None:
    tokens = (8, 24, 16)
    found = kit.simulated(DILOCO, ROUNDS * EVERY, tokens, make_model=wide)
    expected = reference(tokens, nesterov(0.7, 0.9), rounds=ROUNDS, every=EVERY, make_model=wide)
    kit.assert_same(found, expected)
    num_parameters = sum(value.numel() for value in expected[0].outer.values())
    assert num_parameters > 4 * 4096
    assert num_parameters % 4096
    kit.assert_bytes(found, [ROUNDS], [4 * num_parameters], chunks=num_parameters // 4096 + 1)


def wide() -> nn.Module:
    return Net(layers=4, width=37)


class Muon(torch.optim.Optimizer):
    """Muon in fp32: M <- mu M + g;  W <- W - lr NS(g + mu M) sqrt(max(1, rows / columns)), NS five steps of
    Newton and Schulz's iteration X <- a X + (b A + c A A) X with A = X X^T; other tensors by SGD."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, {"lr": 0.01, "momentum": 0.9})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                moment = self.state[weight].setdefault("moment", torch.zeros_like(weight))
                moment.mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad + group["momentum"] * moment
                if weight.dim() == 2:
                    x = update / (update.norm() + 1e-7)
                    for _ in range(5):
                        a = x @ x.T
                        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                    update = x * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.sub_(group["lr"] * update)


def test_muloco_is_nesterov_over_muon() -> None:
    def muon(model: nn.Module) -> torch.optim.Optimizer:
        return Muon(model.parameters())

    buffer: Values = {}

    def outer(theta: Values, delta: Values, count: int) -> Values:
        """u <- mu u + eta Delta;  theta <- theta - mu u - eta Delta, eta 0.7, mu 0.6."""
        for name, value in delta.items():
            buffer[name] = 0.6 * buffer.get(name, torch.zeros_like(value)) + 0.7 * value
        return {name: theta[name] - 0.6 * buffer[name] - 0.7 * delta[name] for name in theta}

    tokens = (8, 24)
    method: dict[str, Any] = {"preset": "muloco", "sync_every": EVERY, "codec": "fp32"}
    found = kit.simulated(method, ROUNDS * EVERY, tokens, muon)
    kit.assert_same(found, reference(tokens, outer, rounds=ROUNDS, every=EVERY, make_optimizer=muon))
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])
