"""Asynchronous Local-SGD (arXiv 2401.09135) against the whole stack: every contribution moves the outer
parameters by itself, by delayed Nesterov, in the order of arrival.

    worker m:  theta_m <- theta;  H_m inner steps;  sends Delta_m = theta_read - theta_m
    server:    D <- D + Delta;  s <- s + 1
               s mod K = 0:  m <- beta m + D / K;  theta <- theta - eta (beta m + Delta / K);  D <- 0
               else:         theta <- theta - eta Delta / K

In the paper a worker computes its H_m steps on what it read. Here it takes each outer step of others as soon
as it hears of it, with what it has trained on top: theta_m <- theta + (theta_m - theta_old), so Delta_m is
what it trained just the same, and its gradients are less stale (docs/methods.md). Order of arrival: simulated
time on links that cost nothing, so the k-th step of worker m is done at k s_m, s_m its seconds a step, and an
offer is nowhere within 0.05 s of a step of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.reference import kit
from tests.reference.arithmetic import Values, minus, plus, zeros
from tests.reference.problem import Net, Seen, values, workers

STEPS = 24
PAYLOAD = 4 * sum(value.numel() for value in values(Net()).values())


def reference(
    step_s: Sequence[float],
    every: Sequence[int],
    *,
    momentum_every: int,
    lr: Callable[[int], float] = lambda count: 0.4,
    momentum: float = 0.9,
) -> tuple[list[Seen], list[Values]]:
    """Of each worker, its parameters before each inner step; and the outer parameters after each outer step,
    from none on. ``every`` is H_m."""
    group = workers(len(step_s))
    seen = [Seen() for _ in group]
    theta = values(group[0].model)
    history = [theta]
    read = [theta for _ in group]
    total, m = zeros(theta), zeros(theta)
    done = sorted((step * step_s[w], w, step) for w in range(len(group)) for step in range(1, STEPS + 1))
    for (at, w, step), (then, v, later) in pairwise(done):
        assert then - at > 0.05 or (step % every[w] and later % every[v])
    for _, w, _ in done:
        each = group[w]
        seen[w].starts.append(values(each.model))
        each.train()
        each.load(plus(theta, minus(values(each.model), read[w])))  # what others did meanwhile
        read[w] = theta
        if each.steps % every[w] == 0:
            delta = minus(theta, values(each.model))
            total = plus(total, delta)
            move = {n: value / momentum_every for n, value in delta.items()}
            if len(history) % momentum_every == 0:
                m = {n: momentum * m[n] + total[n] / momentum_every for n in m}
                move = plus(move, m, momentum)
                total = zeros(theta)
            theta = minus(theta, move, lr(len(history) - 1))
            history.append(theta)
            each.load(theta)
            read[w] = theta
    return seen, history


def check(
    step_s: Sequence[float],
    every: Sequence[int],
    lr: Callable[[int], float] = lambda count: 0.4,
    **parts: Any,
) -> None:
    """The stack in simulated time equals the loop."""
    count = len(step_s)
    method = {"preset": "async_diloco", "sync_every": max(every), "codec": "fp32", "outer_every": count}
    found = kit.simulated({**method, **parts}, STEPS, [8] * count, step_s=step_s)
    expected, history = reference(step_s, every, momentum_every=count, lr=lr)
    for each, wanted in zip(found, expected, strict=True):
        for step, (mine, start) in enumerate(zip(each.starts, wanted.starts, strict=False)):
            try:
                kit.assert_equal(mine, start)
            except AssertionError as error:
                raise AssertionError(f"before inner step {step}: {error}") from None
        kit.assert_equal(each.outer, history[each.outer_steps[0]])
    # Who is at its end of steps may not have heard of the last outer step when the run ends.
    steps = [each.outer_steps[0] for each in found]
    assert max(steps) == len(history) - 1 == sum(STEPS // each for each in every)
    assert min(steps) >= len(history) - 2
    # The only contributor owns the whole vector, and tells all others the new values.
    bulk = sum(each.bulk_bytes for each in found)
    exact = PAYLOAD * (count - 1) * max(steps)
    assert exact - PAYLOAD * (count - 1) <= bulk <= exact + kit.HEADER_BYTES * 2 * count * max(steps)


@pytest.mark.parametrize(("step_s", "every"), [((1.0, 1.556), (4, 4)), ((1.0, 2.74, 3.38), (6, 6, 6))])
def test_each_contribution_moves_the_model_in_the_order_of_arrival(
    step_s: tuple[float, ...], every: tuple[int, ...]
) -> None:
    check(step_s, every, pace="same")


@pytest.mark.parametrize(("step_s", "every"), [((1.0, 1.389), (4, 3)), ((1.0, 1.929), (4, 2))])
def test_workers_take_fewer_steps_the_slower_they_are(
    step_s: tuple[float, ...], every: tuple[int, ...]
) -> None:
    """H_m = H v_m / v_max, rounded to the nearest: 4 / 1.389 = 2.88 and 4 / 1.929 = 2.07. The paper rounds
    up."""
    check(step_s, every)


@pytest.mark.parametrize(
    ("step_s", "every", "pace"),
    [((1.0, 1.286, 1.858), (4, 4, 4), "same"), ((1.0, 1.04, 1.86), (4, 4, 2), "by_speed")],
)
def test_outer_steps_in_quick_succession_are_all_taken_at_the_next_inner_step(
    step_s: tuple[float, ...], every: tuple[int, ...], pace: str
) -> None:
    """By speed: of three workers the second fastest is what the others go by, 4 * 1.04 / 1.86 = 2.24."""
    check(step_s, every, pace=pace)


def test_each_contribution_has_the_rate_of_its_outer_step() -> None:
    schedule = [[0, 0.6], [10, 0.1]]
    check((1.0, 1.556), (4, 4), lambda t: max(0.1, 0.6 - 0.05 * t), pace="same", outer_lr=schedule)
