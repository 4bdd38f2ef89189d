"""Decoupled DiLoCo (arXiv 2604.21428) against the whole stack: whoever arrived makes a fragment's outer step,
once there is a quorum and its grace is over.

    w_m,p = tokens_m (tokens_m / steps_m);  Delta_p = sum_m w_m,p (Theta_p - theta_m,p) / sum_m w_m,p;
    Theta_p <- Nesterov_p(Theta_p, Delta_p), which a learner takes up tau steps after it sent

The plain mean for all tensors: the paper's other aggregation, by directions and norms, is not in our row. A
worker that was not in an outer step takes it below what it trained, theta_m <- Theta + (theta_m - Theta_old),
and offers that in the next (docs/methods.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.reference import kit
from tests.reference.arithmetic import Nesterov, Values, mean, minus, plus
from tests.reference.problem import Net, Seen, Worker, values, workers
from tests.reference.test_streaming import packed, payload_bytes
from tests.reference.test_streaming import reference as streaming

EVERY, QUORUM, GRACE_S = 4, 2, 0.5
ALL = [list(values(Net()))]


def method(**parts: Any) -> dict[str, Any]:
    return {"preset": "decoupled", "codec": "fp32", "quorum": QUORUM, "quorum_grace_s": GRACE_S, **parts}


@dataclass
class Learner:
    """A worker, and how it stands to the outer steps."""

    worker: Worker
    ready_at: float
    """When its next inner step is done; none while it waits for a result."""
    stands_on: int = 0
    """The outer step that its parameters stand on."""
    sent_at: int = 0
    """Inner step of its last contribution."""
    result: int = 0
    """The outer step that its last contribution is in, until it has landed."""


def reference(
    tokens: Sequence[int], step_s: Sequence[float], until_s: float, *, delay: int
) -> tuple[list[Seen], list[Values]]:
    """One fragment. Of each worker, its parameters before each inner step; and the outer parameters after
    each outer step, from none on. Who is ``delay`` steps past its contribution waits for the result."""
    seen = [Seen() for _ in tokens]
    group = [Learner(each, step_s[each.index]) for each in workers(len(tokens))]
    outer = Nesterov(0.4, 0.9)
    history = [values(group[0].worker.model)]
    arrived: dict[int, tuple[Values, float]] = {}
    closes_at = math.inf
    while True:
        w = min(range(len(group)), key=lambda w: group[w].ready_at)
        each, worker, now = group[w], group[w].worker, min(closes_at, group[w].ready_at)
        if now > until_s:
            return seen, history
        if now < closes_at:
            seen[w].starts.append(values(worker.model))
            worker.train()
            each.ready_at = now + step_s[w]
            newest = len(history) - 1
            if not each.result and w not in arrived and each.stands_on < newest:
                mine = minus(values(worker.model), history[each.stands_on])
                worker.load(plus(history[newest], mine))
                each.stands_on = newest
            if worker.steps % EVERY == 0:
                num_steps = worker.steps - each.sent_at
                weight = tokens[w] * num_steps * tokens[w]  # tokens (tokens / steps)
                arrived[w] = minus(history[each.stands_on], values(worker.model)), weight
                each.sent_at = worker.steps
                if len(arrived) == QUORUM:
                    closes_at = now + GRACE_S
        if now == closes_at or len(arrived) == len(group):
            parts, weights = zip(*arrived.values(), strict=True)
            history.append(outer.step(history[-1], mean(parts, weights)))
            for index in arrived:
                group[index].result = len(history) - 1
            arrived.clear()
            closes_at = math.inf
        for each in group:
            if each.sent_at and each.worker.steps == each.sent_at + delay:
                if each.result:
                    each.worker.load(history[each.result])
                    each.stands_on, each.result = each.result, 0
                    if each.ready_at == math.inf:
                        each.ready_at = now + step_s[each.worker.index]
                elif each.worker.index in arrived:
                    each.ready_at = math.inf


def check(tokens: Sequence[int], step_s: Sequence[float], until_s: float, delay: int) -> None:
    """The stack in simulated time equals the loop."""
    parts = method(sync_every=EVERY, delay=delay, num_fragments=1)
    found = kit.simulated(parts, 10**6, tokens, step_s=step_s, until_s=until_s)
    expected, history = reference(tokens, step_s, until_s, delay=delay)
    assert len(history) > 6
    for each, wanted in zip(found, expected, strict=True):
        assert abs(len(each.starts) - len(wanted.starts)) <= 1
        for step, (mine, start) in enumerate(zip(each.starts, wanted.starts, strict=False)):
            try:
                kit.assert_equal(mine, start)
            except AssertionError as error:
                raise AssertionError(f"before inner step {step}: {error}") from None
        kit.assert_equal(each.outer, history[each.outer_steps[0]])
    assert max(each.outer_steps[0] for each in found) == len(history) - 1


def test_fragments_of_all_are_weighted_by_tokens_and_rate() -> None:
    tokens, every, delay = (8, 24, 16), 8, 2
    fragments = packed(4)
    found = kit.simulated(method(sync_every=every, delay=delay), 5 * every + delay, tokens)
    expected = streaming(
        [each * each for each in tokens], 5 * every + delay, fragments, every=every, delay=delay
    )
    kit.assert_same(found, expected)
    kit.assert_bytes(found, expected[0].outer_steps, payload_bytes(fragments))


def test_a_slow_worker_keeps_what_it_trained_on_top_of_outer_steps_without_it() -> None:
    """Its fourth steps are done within the grace after the others' eighth."""
    check((8, 24, 16), (1.0, 1.0, 2.02), 35.2, 2)


@pytest.mark.parametrize(("until_s", "delay"), [(32.2, 0), (29.2, 2)])
def test_the_grace_begins_with_the_quorum(until_s: float, delay: int) -> None:
    """The slow worker's contribution comes first and is alone, then come those of the two others."""
    check((8, 24, 16), (1.0, 1.0, 1.9), until_s, delay)
