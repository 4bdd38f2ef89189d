"""DES-LOC (arXiv 2505.22549) against the whole stack: local AdamW, parameters and moments averaged at rates
of their own.

    t mod K_x = 0:  theta_m <- mean_j theta_j
    t mod K_u = 0:  u_m <- mean_j u_j      (first moments,  K_u = 3 K_x)
    t mod K_v = 0:  v_m <- mean_j v_j      (second moments, K_v = 6 K_x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.reference import kit
from tests.reference.arithmetic import mean, minus
from tests.reference.problem import Net, Seen, Worker, adamw, values, workers

ROUNDS, EVERY = 14, 2
PAYLOAD = 4 * sum(value.numel() for value in values(Net()).values())


def reference(
    tokens: Sequence[int], moments_every: int = 3, lr: Callable[[int], float] = lambda count: 1.0
) -> list[Seen]:
    """Of each worker, what `kit` sees of it; means are weighted by tokens. With another outer rate than 1
    parameters go that part of the way, theta <- theta - eta (theta - mean_j theta_j), and moments become
    their means all the same."""
    group = workers(len(tokens), adamw)
    seen = [Seen() for _ in group]
    theta = values(group[0].model)
    counts = [0, 0, 0]
    for t in range(1, ROUNDS * EVERY + 1):
        for each in group:
            seen[each.index].starts.append(values(each.model))
            each.train()
        if t % EVERY == 0:
            away = minus(theta, mean([values(each.model) for each in group], tokens))
            theta = minus(theta, away, lr(counts[0]))
            counts[0] += 1
            for each in group:
                each.load(theta)
                seen[each.index].outer = theta
        for number, kind in ((1, "exp_avg"), (2, "exp_avg_sq")):
            if t % (number * moments_every * EVERY) == 0:
                counts[number] += 1
                average(kind, group, tokens)
    for each in group:
        seen[each.index].starts.append(values(each.model))
        seen[each.index].outer_steps = counts
    return seen


def average(kind: str, group: Sequence[Worker], tokens: Sequence[int]) -> None:
    """AdamW's moments of one kind become their mean."""
    with torch.no_grad():
        for parameters in zip(*(each.model.parameters() for each in group), strict=True):
            moments = [
                each.optimizer.state[parameter][kind]
                for each, parameter in zip(group, parameters, strict=True)
            ]
            common = mean([{kind: moment} for moment in moments], tokens)[kind]
            for moment in moments:
                moment.copy_(common)


def method(**parts: Any) -> dict[str, Any]:
    return {"preset": "des_loc", "sync_every": EVERY, **parts}


@pytest.mark.parametrize(("tokens", "moments_every"), [((8, 8), 3), ((8, 24, 16), 3), ((8, 24), 2)])
def test_des_loc_averages_moments_at_their_own_rates(tokens: tuple[int, ...], moments_every: int) -> None:
    found = kit.simulated(method(moments_every=moments_every), ROUNDS * EVERY, tokens, adamw)
    expected = reference(tokens, moments_every)
    assert expected[0].outer_steps == [14, 14 // moments_every, 14 // (2 * moments_every)]
    kit.assert_same(found, expected)
    kit.assert_bytes(found, expected[0].outer_steps, [PAYLOAD] * 3)


def test_des_loc_over_sockets_averages_moments_at_their_own_rates() -> None:
    tokens = (8, 24)
    found = kit.over_sockets(method(), ROUNDS, tokens, adamw)
    expected = reference(tokens)
    kit.assert_same(found, expected)
    kit.assert_bytes(found, expected[0].outer_steps, [PAYLOAD] * 3)


def test_only_parameters_move_by_the_outer_optimizer() -> None:
    found = kit.simulated(method(outer_lr=0.6), ROUNDS * EVERY, (8, 24), adamw)
    kit.assert_same(found, reference((8, 24), lr=lambda count: 0.6))


def test_the_outer_rate_of_parameters_follows_its_schedule() -> None:
    found = kit.simulated(method(outer_lr=[[0, 1.0], [10, 0.5]]), ROUNDS * EVERY, (8, 24), adamw)
    kit.assert_same(found, reference((8, 24), lr=lambda count: max(0.5, 1.0 - 0.05 * count)))


def test_des_loc_without_moments_is_local_sgd() -> None:
    tokens = (8, 24)
    found = kit.simulated(method(moments_every=0), ROUNDS * EVERY, tokens, adamw)
    local_sgd = {"preset": "local_sgd", "sync_every": EVERY}
    kit.assert_same(found, kit.simulated(local_sgd, ROUNDS * EVERY, tokens, adamw))
