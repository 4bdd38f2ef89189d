"""How far one worker may move a mean, against the whole stack: DiLoCo with workers of very different tokens,
one of which also moves much further than the others.

    w_m <- min(w_m, 4 lower median of w) min(1, 3 lower median of |Delta| / |Delta_m|)     from 4 workers on
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from tests.reference import kit
from tests.reference.arithmetic import Nesterov, Values, limited
from tests.reference.problem import Seen
from tests.reference.synchronous import OuterOpt, reference

ROUNDS, EVERY = 5, 4
TOKENS = (8, 8000, 24, 16, 40)
METHOD: dict[str, Any] = {"preset": "diloco", "sync_every": EVERY, "codec": "fp32"}


def nesterov() -> OuterOpt:
    """buf <- mu buf + Delta;  theta <- theta - eta (Delta + mu buf), eta 0.7, mu 0.9."""
    optimizer = Nesterov(0.7, 0.9)
    return lambda theta, delta, count: optimizer.step(theta, delta)


class Uneven:
    """Makes inner optimizers, of which the second learns ten times as fast, so that it moves further."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, model: nn.Module) -> torch.optim.Optimizer:
        self.made += 1
        return torch.optim.SGD(model.parameters(), lr=0.2 if self.made == 2 else 0.02)


def expected(tokens: Sequence[float]) -> list[Seen]:
    return reference(tokens, nesterov(), rounds=ROUNDS, every=EVERY, make_optimizer=Uneven())


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_diloco_of_very_different_workers_is_the_loop_with_limited_weights(count: int) -> None:
    tokens = TOKENS[:count]
    kit.assert_same(kit.simulated(METHOD, ROUNDS * EVERY, tokens, Uneven()), expected(tokens))


def test_over_sockets_too() -> None:
    found = kit.over_sockets(METHOD, ROUNDS, TOKENS)
    kit.assert_same(found, reference(TOKENS, nesterov(), rounds=ROUNDS, every=EVERY))


def test_the_limits_matter_in_these_runs_from_four_workers_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared above would differ without either factor."""

    def without_norms(weights: Sequence[float], norms: Sequence[float]) -> list[float]:
        return limited(weights, [1.0] * len(weights))

    def as_offered(weights: Sequence[float], norms: Sequence[float]) -> list[float]:
        return list(weights)

    for count in (3, 4, 5):
        found = expected(TOKENS[:count])[0].outer
        for other in (without_norms, as_offered):
            monkeypatch.setattr("tests.reference.synchronous.limited", other)
            assert _far(found, expected(TOKENS[:count])[0].outer) == (count >= 4)
            monkeypatch.undo()


def _far(a: Values, b: Values) -> bool:
    return any(not torch.allclose(a[name], b[name], rtol=1e-2) for name in a)
