"""Streaming DiLoCo (arXiv 2501.18512), algorithm 2, against the whole stack: fragments of every pattern,
offsets, delay, and the ways to merge.

    if (t - t_p) mod H = 0:        Delta_m,p = theta_p - theta_m,p(t);  start its mean over workers
    if (t - tau - t_p) mod H = 0:  theta_p <- OuterOpt_p(theta_p, mean Delta_m,p)
                                   theta_m,p <- alpha theta_m,p(t) + (1 - alpha) theta_p

The paper says that the t_p are evenly spread over H; ours are t_p = floor((p + 1) H / P), so a fragment is
sent for the first time after its first t_p steps (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.reference import kit
from tests.reference.arithmetic import Nesterov, Values, mean, minus, only, plus
from tests.reference.problem import Net, Seen, values, workers

Fragments = Sequence[Sequence[str]]


def reference(
    tokens: Sequence[int],
    steps: int,
    fragments: Fragments,
    *,
    every: int,
    delay: int,
    merge: str = "replace",
    alpha: float = 0.0,
    lr: Callable[[int], float] = lambda count: 0.4,
) -> list[Seen]:
    """Of each worker, what `kit` sees of it."""
    group = workers(len(tokens))
    seen = [Seen() for _ in group]
    outer = Nesterov(lr(0), 0.9)
    theta = values(group[0].model)
    base = [dict(theta) for _ in group]  # the outer copy that each worker's contribution is measured from
    sent: list[list[list[Values]]] = [[] for _ in fragments]  # by fragment, of each that has not landed
    results: list[list[Values]] = [[] for _ in fragments]
    counts = [0] * len(fragments)

    def send(p: int) -> None:
        sent[p].append([only(fragments[p], values(each.model)) for each in group])
        parts = [minus(local, base[m]) for m, local in enumerate(sent[p][-1])]
        outer.lr = lr(counts[p])
        theta.update(outer.step(theta, {n: -change for n, change in mean(parts, tokens).items()}))
        results[p].append(only(fragments[p], theta))
        counts[p] += 1
        if delay == every and counts[p] == 1:  # nothing lands yet: the next is measured from here
            for m, local in enumerate(sent[p][-1]):
                base[m].update(local)

    def land(p: int) -> None:
        result, then = results[p].pop(0), sent[p].pop(0)
        for each in group:
            local = only(fragments[p], values(each.model))
            new = result
            if merge == "mix":
                new = {n: alpha * local[n] + (1 - alpha) * result[n] for n in local}
            if merge == "carry":  # LOSCAR's merge (arXiv 2605.20866): local steps since, on top
                new = plus(result, minus(local, then[each.index]))
            each.load(new)
            base[each.index].update(result)

    for t in range(1, steps + 1):
        for each in group:
            seen[each.index].starts.append(values(each.model))
            each.train()
        for p in range(len(fragments)):
            since = t - (p + 1) * every // len(fragments)
            sends = since >= 0 and since % every == 0
            lands = since >= delay and (since - delay) % every == 0
            if lands and delay == every and merge == "carry":  # what lands is kept below what is sent
                land(p)
            if sends:
                send(p)
            if lands and not (delay == every and merge == "carry"):
                land(p)
    for each in group:
        seen[each.index].starts.append(values(each.model))
        seen[each.index].outer, seen[each.index].outer_steps = theta, counts
    return seen


def layers(*groups: str) -> Fragments:
    """Fragments by the beginnings of names: of each fragment, with a space between."""
    names = list(values(Net()))
    return [[name for name in names if name.startswith(tuple(each.split()))] for each in groups]


STRIDED = layers("embed layers.0 layers.3", "layers.1", "layers.2 head")
"""Layer i belongs to fragment i mod P; what is before the layers to the first, what is after to the last."""
SEQUENTIAL = layers("embed layers.0", "layers.1 layers.2", "layers.3 head")


def packed(count: int) -> list[list[str]]:
    """The largest tensor left goes to the lightest fragment."""
    full = values(Net())
    fragments: list[list[str]] = [[] for _ in range(count)]
    weight = [0] * count
    for name in sorted(full, key=lambda name: -full[name].numel()):  # of equal ones the first
        lightest = weight.index(min(weight))
        fragments[lightest].append(name)
        weight[lightest] += full[name].numel()
    return fragments


def method(fragments: Fragments, every: int, delay: int) -> dict[str, Any]:
    return {
        "preset": "streaming",
        "codec": "fp32",
        "num_fragments": len(fragments),
        "sync_every": every,
        "delay": delay,
    }


def payload_bytes(fragments: Fragments) -> list[int]:
    full = values(Net())
    return [4 * sum(full[name].numel() for name in names) for names in fragments]


def check(
    fragments: Fragments,
    tokens: Sequence[int],
    every: int,
    delay: int,
    *,
    step_s: Sequence[float] = (),
    **parts: Any,
) -> None:
    """The stack in simulated time equals the loop."""
    steps = 5 * every + delay
    merging = {key: parts[key] for key in ("merge", "alpha") if key in parts}
    found = kit.simulated({**method(fragments, every, delay), **parts}, steps, tokens, step_s=step_s)
    expected = reference(tokens, steps, fragments, every=every, delay=delay, **merging)
    kit.assert_same(found, expected)
    kit.assert_bytes(found, expected[0].outer_steps, payload_bytes(fragments))


@pytest.mark.parametrize("delay", [1, 2])
def test_streaming_over_sockets_is_algorithm_2(delay: int) -> None:
    """With one fragment under way at a time, and with the next sent when one lands: tau is H / P. Then the
    first fragment's next exchange may have begun when the last one of the run ends, and it counts too."""
    tokens, every, rounds = (8, 24), 6, 5
    found = kit.over_sockets(method(STRIDED, every, delay), rounds, tokens)
    further = found[0].outer_steps[0] - rounds
    assert further in ((0,) if delay == 1 else (0, 1))
    steps = rounds * every + further * (every // len(STRIDED))
    expected = reference(tokens, steps, STRIDED, every=every, delay=delay)
    kit.assert_same(found, expected)
    kit.assert_bytes(found, expected[0].outer_steps, payload_bytes(STRIDED))


@pytest.mark.parametrize(("every", "delay"), [(6, 0), (6, 1), (7, 3), (6, 5)])
def test_fragments_are_sent_at_their_offsets_and_land_tau_steps_later(every: int, delay: int) -> None:
    check(STRIDED, (8, 24, 16), every, delay)


def test_a_slower_worker_changes_when_fragments_are_exchanged_but_not_what_comes_of_it() -> None:
    check(STRIDED, (8, 24, 16), 6, 4, step_s=(1.0, 1.3, 2.2))


def test_fragments_may_land_a_whole_period_later_below_local_steps() -> None:
    check(STRIDED, (8, 24), 6, 6, merge="carry")


def test_fragments_may_land_a_whole_period_later_over_local_steps() -> None:
    check(STRIDED, (8, 24), 6, 6)


@pytest.mark.parametrize(
    "delay",
    [0, 2],
)
def test_mix_keeps_alpha_of_the_local_weights(delay: int) -> None:
    check(STRIDED, (8, 8), 6, delay, merge="mix", alpha=0.25)


def test_carry_puts_the_local_steps_since_the_offer_on_top() -> None:
    check(STRIDED, (24, 8), 6, 2, merge="carry")


def test_sequential_fragments_are_runs_of_whole_layers() -> None:
    check(SEQUENTIAL, (8, 24), 6, 1, fragment_pattern="sequential")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_balanced_fragments_are_runs_of_tensors_cut_nearest_to_equal_sizes(count: int) -> None:
    full = values(Net())
    names, total = list(full), sum(each.numel() for each in full.values())
    ends = [sum(full[name].numel() for name in names[: i + 1]) for i in range(len(names))]
    cuts = [0] + [
        1 + min(range(len(names)), key=lambda i, p=p: abs(ends[i] - p * total / count))
        for p in range(1, count + 1)
    ]
    fragments = [names[start:end] for start, end in pairwise(cuts)]
    check(fragments, (8, 8), 7, 1, fragment_pattern="balanced")


def test_packed_fragments_take_the_largest_tensor_left_into_the_lightest() -> None:
    check(packed(4), (8, 8), 8, 1, fragment_pattern="packed")


def test_fragments_of_modules_are_what_their_entries_name() -> None:
    entries = ["layers.2,head", "embed", "layers.0,layers.1,layers.3"]
    fragments = layers(*(each.replace(",", " ") for each in entries))
    check(
        fragments,
        (8, 24),
        6,
        2,
        fragment_pattern="modules",
        fragment_modules=entries,
    )


def test_equal_weights_ignore_tokens() -> None:
    found = kit.simulated({**method(STRIDED, 6, 1), "weights": "equal"}, 31, (8, 24, 16))
    kit.assert_same(found, reference((1, 1, 1), 31, STRIDED, every=6, delay=1))


def test_each_fragment_follows_the_schedule_by_its_own_outer_steps() -> None:
    schedule = [[1, 0.7], [4, 0.1]]
    found = kit.simulated({**method(STRIDED, 6, 2), "outer_lr": schedule}, 32, (8, 24))
    rate = [0.7, 0.7, 0.5, 0.3, 0.1, 0.1]
    kit.assert_same(found, reference((8, 24), 32, STRIDED, every=6, delay=2, lr=lambda t: rate[t]))
