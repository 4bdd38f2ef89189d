"""DiLoCo (arXiv 2311.08105), algorithm 1, against the whole stack."""

from __future__ import annotations

import torch

from tests.reference import kit
from tests.reference.problem import values, workers

ROUNDS, EVERY = 5, 4


def reference(tokens: tuple[int, ...], lr: float, momentum: float) -> list[dict[str, torch.Tensor]]:
    """Outer parameters after each outer step."""
    group = workers(len(tokens))
    theta = values(group[0].model)
    buffer = {name: torch.zeros_like(value) for name, value in theta.items()}
    history = []
    for _ in range(ROUNDS):
        for each in group:
            for _ in range(EVERY):
                each.train()
        local = [values(each.model) for each in group]
        for name in theta:
            parts = [share * (theta[name] - mine[name]) for share, mine in zip(tokens, local, strict=True)]
            delta = torch.stack(parts).sum(0) / sum(tokens)
            buffer[name] = momentum * buffer[name] + delta
            theta[name] = theta[name] - lr * (delta + momentum * buffer[name])
        for each in group:
            each.load(theta)
        history.append(dict(theta))
    return history


def test_diloco_over_sockets_is_algorithm_1() -> None:
    tokens = (8, 24)
    seen = kit.over_sockets({"preset": "diloco", "sync_every": EVERY, "codec": "fp32"}, ROUNDS, tokens)
    history = reference(tokens, 0.7, 0.9)
    for each in seen:
        kit.assert_equal(each.outer, history[-1])
        assert each.outer_steps == [ROUNDS]


def test_diloco_in_simulated_time_is_algorithm_1() -> None:
    tokens = (8, 24, 16)
    seen = kit.simulated({"preset": "diloco", "sync_every": EVERY, "codec": "fp32"}, ROUNDS * EVERY, tokens)
    history = reference(tokens, 0.7, 0.9)
    for each in seen:
        kit.assert_equal(each.outer, history[-1])
        assert each.outer_steps == [ROUNDS]
        for round_index, theta in enumerate(history, 1):
            kit.assert_equal(each.starts[round_index * EVERY], theta)
