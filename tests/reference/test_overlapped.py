"""Methods that overlap a whole outer step: eager and delayed updates (arXiv 2502.12996) and CO2 (arXiv
2401.16265), against the whole stack. The mean of a period's contributions is there when the next period ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.reference import kit
from tests.reference.arithmetic import Nesterov, Values, mean, minus, only, plus
from tests.reference.problem import MakeOptimizer, Net, Seen, adamw, sgd, values, workers

ROUNDS, EVERY = 6, 4
PAYLOAD = 4 * sum(value.numel() for value in values(Net()).values())

Step = Callable[[Values, Values], Values]


def delayed(tokens: Sequence[int], step: Step) -> list[Seen]:
    """At the end of period t:  theta <- OuterOpt(theta, mean Delta^(t-1));  theta_m <- theta.

    At the end of the first there is no mean yet: local parameters stay, and the next contribution is measured
    from them (docs/methods.md)."""
    group = workers(len(tokens))
    seen = [Seen() for _ in group]
    theta = values(group[0].model)
    began = [theta for _ in group]  # where the local steps of this period began
    waiting: Values | None = None
    for _ in range(ROUNDS):
        for each in group:
            train(each, seen)
        local = [values(each.model) for each in group]
        delta = mean([minus(*pair) for pair in zip(began, local, strict=True)], tokens)
        if waiting is None:
            began = local
        else:
            theta = step(theta, waiting)
            for each in group:
                each.load(theta)
            began = [theta for _ in group]
        waiting = delta
    assert waiting is not None
    return ended(group, seen, step(theta, waiting))


def co2(
    tokens: Sequence[int],
    *,
    alpha: Callable[[int], float] = lambda count: 1.0,
    beta: float = 0.5,
    clip: float = 1.0,
    penalty: float = 2.0,
) -> list[Seen]:
    """m <- clip(beta m + (x_old - mean x^(t-1)) / Lambda, -phi, phi);  x_old <- x_old - alpha m.

    The paper's text was not at hand: Lambda is a constant, and the local steps made since x^(t-1) was offered
    stay on top, x_m <- x_old + (x_m - x_m^(t-1)), before x_m^(t) is offered (docs/methods.md)."""
    group = workers(len(tokens))
    seen = [Seen() for _ in group]
    x_old = values(group[0].model)
    m = {name: 0.0 * value for name, value in x_old.items()}
    offered: list[Values] = []

    def step(count: int) -> None:
        nonlocal x_old, m
        change = minus(base, mean(offered, tokens))
        m = {name: (beta * m[name] + change[name] / penalty).clamp(-clip, clip) for name in m}
        x_old = minus(x_old, m, alpha(count))

    base = x_old  # the outer parameters that the contribution on its way was measured from
    for count in range(ROUNDS):
        for each in group:
            train(each, seen)
        if offered:
            step(count - 1)
            for each in group:
                each.load(plus(x_old, minus(values(each.model), offered[each.index])))
        offered, base = [values(each.model) for each in group], x_old
    step(ROUNDS - 1)
    return ended(group, seen, x_old)


def eager(
    tokens: Sequence[int],
    lr: Callable[[int], float],
    momentum: float,
    make_optimizer: MakeOptimizer = sgd,
    fragments: Sequence[Sequence[str]] = (tuple(values(Net())),),
) -> list[Seen]:
    """Delta~_m^(t) = Delta^(t-1) + (1/M) (Delta_m^(t) - Delta_m^(t-1));
    theta_m <- OuterOpt_m(theta_m, Delta~_m^(t)), for each fragment at the ends of its periods.

    1/M is the share of the worker's tokens. At the end of the first period there is no mean: the worker's own
    contribution stands for it, and is taken back when the mean is there, Delta~_m^(1) = Delta_m^(1) and
    Delta~_m^(2) = Delta^(1) - Delta_m^(1) + (1/M) Delta_m^(2) (docs/methods.md). What the swarm shares is the
    outer step with the means, theta <- OuterOpt(theta, Delta^(t))."""
    group = workers(len(tokens), make_optimizer)
    seen = [Seen() for _ in group]
    shared, own = Nesterov(lr(0), momentum), [Nesterov(lr(0), momentum) for _ in group]
    theta = values(group[0].model)
    ahead = [dict(theta) for _ in group]
    stood: list[list[Values]] = [
        [] for _ in fragments
    ]  # what of each worker's last contribution it has taken
    means: list[Values] = [{} for _ in fragments]
    counts = [0] * len(fragments)
    for t in range(1, ROUNDS * EVERY + 1):
        for each in group:
            seen[each.index].starts.append(values(each.model))
            each.train()
        for p, names in enumerate(fragments):
            if t % EVERY != (p + 1) * EVERY // len(fragments) % EVERY:
                continue
            for optimizer in (shared, *own):
                optimizer.lr = lr(counts[p])
            deltas = [minus(only(names, ahead[w.index]), values(w.model)) for w in group]
            fresh = (
                deltas
                if not counts[p]
                else [
                    {n: tokens[m] / sum(tokens) * value for n, value in delta.items()}
                    for m, delta in enumerate(deltas)
                ]
            )
            for m, each in enumerate(group):
                estimate = fresh[m] if not counts[p] else plus(minus(means[p], stood[p][m]), fresh[m])
                ahead[m].update(own[m].step(ahead[m], estimate))
                each.load(only(names, ahead[m]))
            stood[p], means[p] = fresh, mean(deltas, tokens)
            theta.update(shared.step(theta, means[p]))
            counts[p] += 1
    for each in group:
        seen[each.index].starts.append(values(each.model))
        seen[each.index].outer, seen[each.index].outer_steps = theta, counts
    return seen


def train(each: Any, seen: list[Seen]) -> None:
    for _ in range(EVERY):
        seen[each.index].starts.append(values(each.model))
        each.train()


def ended(group: Any, seen: list[Seen], theta: Values) -> list[Seen]:
    for each in group:
        seen[each.index].starts.append(values(each.model))
        seen[each.index].outer, seen[each.index].outer_steps = theta, [ROUNDS]
    return seen


def stack(name: str, tokens: Sequence[int], make_optimizer: MakeOptimizer = sgd, **parts: Any) -> list[Seen]:
    method = {"preset": name, "sync_every": EVERY, "delay": EVERY, "codec": "fp32", **parts}
    found = kit.simulated(method, ROUNDS * EVERY, tokens, make_optimizer)
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])
    return found


@pytest.mark.parametrize("tokens", [(8, 8), (8, 24), (8, 24, 16)])
def test_eager_adds_the_own_fresh_part_to_the_mean_of_the_period_before(tokens: tuple[int, ...]) -> None:
    kit.assert_same(stack("eager", tokens), eager(tokens, lambda count: 0.4, 0.9))


def test_eager_does_so_for_each_fragment() -> None:
    names = list(values(Net()))
    fragments = [
        [n for n in names if n.startswith(("embed", "layers.0", "layers.1"))],
        [n for n in names if n.startswith(("layers.2", "layers.3", "head"))],
    ]
    method = {"preset": "eager", "sync_every": EVERY, "delay": EVERY, "codec": "fp32", "num_fragments": 2}
    found = kit.simulated({**method, "fragment_pattern": "sequential"}, ROUNDS * EVERY, (8, 24))
    kit.assert_same(found, eager((8, 24), lambda count: 0.4, 0.9, fragments=fragments))


def test_eager_over_sockets_is_the_papers() -> None:
    tokens = (8, 24)
    method = {"preset": "eager", "sync_every": EVERY, "delay": EVERY, "codec": "fp32"}
    found = kit.over_sockets(method, ROUNDS, tokens, adamw)
    kit.assert_same(found, eager(tokens, lambda count: 0.4, 0.9, adamw))
    kit.assert_bytes(found, [ROUNDS], [PAYLOAD])


def test_eager_of_one_worker_is_diloco() -> None:
    found = stack("eager", (8,), adamw)
    expected = kit.simulated(
        {"preset": "diloco", "sync_every": EVERY, "codec": "fp32", "outer_lr": 0.4},
        ROUNDS * EVERY,
        (8,),
        adamw,
    )
    kit.assert_same(found, expected)


@pytest.mark.parametrize("tokens", [(8, 8), (8, 24, 16)])
def test_delayed_takes_the_mean_of_the_period_before(tokens: tuple[int, ...]) -> None:
    kit.assert_same(stack("delayed", tokens), delayed(tokens, Nesterov(0.2, 0.9).step))


@pytest.mark.parametrize("tokens", [(8, 8), (8, 24, 16)])
def test_co2_carries_local_steps_over_a_mean_one_period_late(tokens: tuple[int, ...]) -> None:
    kit.assert_same(stack("co2", tokens), co2(tokens))


def test_co2_clips_its_momentum_and_divides_by_its_penalty() -> None:
    parts = {"outer_lr": 0.8, "outer_momentum": 0.7, "outer_clip": 0.005, "outer_penalty": 3.0}
    found = stack("co2", (8, 24), **parts)
    kit.assert_same(found, co2((8, 24), alpha=lambda count: 0.8, beta=0.7, clip=0.005, penalty=3.0))


def test_co2_may_replace_local_steps_as_its_released_code_does() -> None:
    momentum: Values = {}

    def step(x_old: Values, delta: Values) -> Values:
        """m <- clip(beta m + (x_old - x) / Lambda, -phi, phi);  x_old <- x_old - alpha m;  x <- x_old."""
        for name, value in delta.items():
            momentum[name] = (0.5 * momentum.get(name, 0.0 * value) + value / 2.0).clamp(-0.01, 0.01)
        return minus(x_old, momentum)

    found = stack("co2", (8, 24), merge="replace", outer_clip=0.01)
    kit.assert_same(found, delayed((8, 24), step))


SCHEDULE = [[0, 0.8], [4, 0.2]]


def scheduled(step: Callable[[Values, Values, int], Values]) -> Step:
    """``step`` with the number of the outer step."""
    counts = iter(range(ROUNDS))
    return lambda theta, delta: step(theta, delta, next(counts))


def test_delayed_follows_a_schedule_of_its_rate() -> None:
    optimizer = Nesterov(0.2, 0.9)

    def step(theta: Values, delta: Values, count: int) -> Values:
        optimizer.lr = max(0.2, 0.8 - 0.15 * count)
        return optimizer.step(theta, delta)

    found = stack("delayed", (8, 24), outer_lr=SCHEDULE)
    kit.assert_same(found, delayed((8, 24), scheduled(step)))


def test_eager_follows_a_schedule_of_its_rate() -> None:
    """Outer step t has the rate of t for the shared parameters and for a worker's own, which take as many."""
    found = stack("eager", (8, 24), outer_lr=SCHEDULE)
    kit.assert_same(found, eager((8, 24), lambda count: max(0.2, 0.8 - 0.15 * count), 0.9))


def test_co2_follows_a_schedule_of_its_rate() -> None:
    found = stack("co2", (8, 24), outer_lr=SCHEDULE)
    kit.assert_same(found, co2((8, 24), alpha=lambda count: max(0.2, 0.8 - 0.15 * count)))
