"""Low-rank factors (PowerSGD, arXiv 1905.13727) and DiLoCoX (2506.21263) against the whole stack, in fp32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from tests.reference import formats, kit
from tests.reference.power_sgd import Named, PowerSgd, effective_rank, floats, matrix, space
from tests.reference.problem import MakeModel, Net, values, wide, workers
from tests.reference.rounds import Told, flat

TOKENS = (8, 24, 16)
ROUNDS, EVERY = 6, 4


def fast(model: nn.Module) -> torch.optim.Optimizer:
    """Moves far enough that the space of an update can be read off parameters in fp32."""
    return torch.optim.SGD(model.parameters(), lr=0.2)


def minus(a: Named, b: Named) -> Named:
    return {name: a[name] - b[name] for name in a}


def reference(
    power: PowerSgd,
    *,
    feedback: bool = True,
    decay: float = 1.0,
    overlap: bool = False,
    lr: float = 1.0,
    momentum: float = 0.0,
    make_model: MakeModel = Net,
    phases: Sequence[int] = (EVERY,) * ROUNDS,
) -> Told:
    """With error feedback e, and the outer step by Nesterov as torch has it:

        M_i = Delta_i + e_i;  D = PowerSGD(M);  e_i <- M_i - what i has sent of it;
        b <- mu b + D;  theta <- theta - lr (D + mu b)

    DiLoCoX overlaps: "the reduction of round t's delta runs during round t + 1; at its end the outer
    optimizer applies it". Delta of a phase is measured from where it began: local parameters after the first
    phase, when there is no result yet, outer ones later.
    """
    group = workers(len(TOKENS), fast, make_model)
    theta = values(group[0].model)
    buffer = {name: torch.zeros_like(value) for name, value in theta.items()}
    residuals = [{name: torch.zeros_like(value) for name, value in theta.items()} for _ in group]
    began = [theta for _ in group]
    results: list[Named] = []
    told = Told([[] for _ in group])

    def outer_step(update: Named) -> Named:
        new = {}
        for name, d in update.items():
            buffer[name] = momentum * buffer[name] + d
            new[name] = theta[name] - lr * (d + momentum * buffer[name])
        return new

    for inner_steps in phases:
        parts = []
        for each in group:
            for _ in range(inner_steps):
                told.starts[each.index].append(values(each.model))
                each.train()
            delta = minus(began[each.index], values(each.model))
            e = residuals[each.index]
            parts.append({name: delta[name] + decay * e[name] for name in delta})
        update, sent = power.step(parts)
        if feedback:
            residuals = [minus(part, own) for part, own in zip(parts, sent, strict=True)]
        results.append(update)
        if overlap and len(results) == 1:
            began = [values(each.model) for each in group]
            continue
        theta = outer_step(results.pop(0))
        began = [theta for _ in group]
        for each in group:
            each.load(theta)
    for each in group:
        told.starts[each.index].append(values(each.model))
    told.outer = outer_step(results.pop()) if results else theta
    return told


def check(
    method: dict[str, Any], rank: int, loop: dict[str, Any], make_model: MakeModel = Net, gain: float = 1.0
) -> None:
    """``gain`` is what the first outer step multiplies the update with."""
    method = {"projection": "low_rank", "rank": rank, "sync_every": EVERY, "codec": "fp32", **method}
    seen = kit.simulated(method, ROUNDS * EVERY, TOKENS, fast, make_model=make_model)
    landed = EVERY * (2 if loop.get("overlap") else 1)
    first = minus(seen[0].starts[0], seen[0].starts[landed])
    given = space({name: value / gain for name, value in first.items()}, rank)
    assert given
    told = reference(PowerSgd(rank, TOKENS, {0: given}), make_model=make_model, **loop)
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)
    payload = ROUNDS * (len(TOKENS) - 1) * 2 * 4 * floats(told.outer, rank)
    kit.assert_bulk(seen, payload, messages=ROUNDS * 2 * 4 * len(TOKENS) * (len(TOKENS) - 1))


AVERAGE: dict[str, Any] = {"preset": "local_sgd"}
DILOCOX: dict[str, Any] = {"preset": "dilocox", "adapt": "none"}


@pytest.mark.parametrize(("rank", "make_model"), [(1, Net), (3, Net), (4, wide)])
@pytest.mark.parametrize(
    ("feedback", "loop"),
    [
        ({"error_feedback": "none"}, {"feedback": False}),
        ({"error_feedback": "ef14"}, {}),
        ({"error_feedback": "ef14", "feedback_decay": 0.9}, {"decay": 0.9}),
    ],
    ids=str,
)
def test_each_round_averages_two_factors_and_begins_with_the_last_ones(
    feedback: dict[str, Any], loop: dict[str, Any], rank: int, make_model: MakeModel
) -> None:
    check({**AVERAGE, **feedback}, rank, loop, make_model)


@pytest.mark.parametrize(("rank", "make_model"), [(3, Net), (4, wide)])
def test_dilocox_overlaps_a_whole_phase(rank: int, make_model: MakeModel) -> None:
    check(DILOCOX, rank, {"overlap": True, "lr": 0.2, "momentum": 0.9}, make_model, gain=0.2 * 1.9)


def test_dilocox_without_overlap_is_its_outer_step_on_the_two_factors() -> None:
    check({**DILOCOX, "delay": 0}, 3, {"lr": 0.2, "momentum": 0.9}, gain=0.2 * 1.9)


@pytest.mark.parametrize("codec", ["bf16", "int8"])
@pytest.mark.parametrize(("rank", "make_model"), [(3, Net), (4, wide)])
def test_factors_may_travel_in_fewer_bits(codec: str, rank: int, make_model: MakeModel) -> None:
    """Which numbers share a scale is the stack's affair, so the loop takes orth(P) of every round from its
    updates. Rounded factors and means are off by a step of updates that are below 0.05, in each round."""
    method = {"projection": "low_rank", "rank": rank, "sync_every": EVERY, "codec": codec}
    seen = kit.simulated(
        {**AVERAGE, **method, "error_feedback": "ef14"}, ROUNDS * EVERY, TOKENS, fast, make_model=make_model
    )
    landed = [seen[0].starts[index * EVERY] for index in range(ROUNDS + 1)]
    updates = [minus(before, after) for before, after in pairwise(landed)]
    given = {index: space(update, rank) for index, update in enumerate(updates)}
    told = reference(PowerSgd(rank, TOKENS, given), make_model=make_model)
    for found, starts in zip(seen, told.starts, strict=True):
        for have, want in zip(found.starts, starts, strict=False):
            kit.assert_equal(have, want, ROUNDS * 0.05 * formats.STEPS[codec])


def test_rank_and_h_shrink_with_the_effective_rank_of_the_last_means() -> None:
    """ "Average r' over the last c rounds -> r_{t+1};  H_{t+1} = H_1 r_{t+1} / r_1"

    Our reading (docs/methods.md): r' is the effective rank at 99 % of the squared singular values, c = 8, r
    is rounded up and H to the nearest. How the basis shrinks with the rank is open, so the loop takes it from
    the first update of each rank; and of r one more or less is allowed: the stack may measure the factors.
    """
    rank, every, rounds = 12, 8, 16
    parts = {"adapt": "dilocox", "error_feedback": "ef14", "projection": "low_rank", "rank": rank}
    method = {"preset": "local_sgd", **parts, "sync_every": every}
    seen = kit.simulated(method, rounds * every, TOKENS, fast, make_model=wide)
    starts = [each.starts for each in seen]
    same = [torch.equal(flat(a), flat(b)) for a, b in zip(*starts[:2], strict=True)]
    landings = [step for step, is_same in enumerate(same) if is_same]
    phases = [later - step for step, later in pairwise(landings)]
    updates = [minus(starts[0][step], starts[0][later]) for step, later in pairwise(landings)]
    spaces = [space(update, rank) for update in updates]
    ranks = [max(basis.shape[1] for basis in each.values()) for each in spaces]
    assert phases == [max(1, math.floor(every * r / rank + 0.5)) for r in ranks]
    shown = [effective_rank(update, rank) for update in updates]
    for index, r in enumerate(ranks):
        wanted = rank if index < 8 else min(rank, math.ceil(sum(shown[index - 8 : index]) / 8))
        assert abs(r - wanted) <= 1
    assert min(ranks) < rank - 1
    given = {i: basis for i, basis in enumerate(spaces) if i == 0 or ranks[i] != ranks[i - 1]}
    told = reference(PowerSgd(rank, TOKENS, given), make_model=wide, phases=phases)
    kit.assert_told(seen, told.starts, told.outer, len(phases))


@pytest.mark.parametrize("feedback", ["none", "ef14"])
def test_ranks_share_a_budget_of_error_among_matrices(feedback: str) -> None:
    """L-GreCo (2210.17357): minimise the bytes subject to sum err_l(c_l)^2 <= that of the same rank for all,
    by the accumulated update.

    Our reading (docs/methods.md): every 32 rounds, of which the first 4 show all at the largest rank and are
    accumulated; the rank for all is half of that, candidates are from half to twice it. "Smallest" is checked
    as: no matrix could do with one rank less.
    """
    rank, every, rounds = 8, 2, 36
    parts = {"adapt": "lgreco", "error_feedback": feedback, "projection": "low_rank", "rank": rank}
    method = {"preset": "local_sgd", **parts, "sync_every": every}
    seen = kit.simulated(method, rounds * every, TOKENS, fast, make_model=wide)
    landed = [seen[0].starts[index * every] for index in range(rounds + 1)]
    updates = [minus(before, after) for before, after in pairwise(landed)]
    spaces = [space(update, rank) for update in updates]
    ranks = [{name: basis.shape[1] for name, basis in each.items()} for each in spaces]
    chosen = ranks[4]
    largest = dict.fromkeys(chosen, rank)
    assert ranks == [largest] * 4 + [chosen] * 28 + [largest] * 4
    assert all(rank // 4 <= r <= rank for r in chosen.values())

    def error(name: str, r: int) -> float:
        shown = torch.stack([matrix(update[name]) for update in updates[:4]]).sum(0)
        return float(torch.linalg.svdvals(shown).square()[r:].sum())

    budget = sum(error(name, rank // 2) for name in chosen)
    spent = sum(error(name, r) for name, r in chosen.items())
    assert spent <= 1.01 * budget
    for name, r in chosen.items():
        assert r == rank // 4 or spent - error(name, r) + error(name, r - 1) > 0.99 * budget
    # With feedback rounds grow apart: 3e-8 in a basis at round 4 are 1e-5 at round 36 in the loop alone. So
    # from round 12 on it takes every basis from its update.
    late = 12 if feedback == "ef14" else rounds
    given = {i: b for i, b in enumerate(spaces) if i == 0 or ranks[i] != ranks[i - 1] or i >= late}
    power = PowerSgd(rank, TOKENS, given)
    told = reference(power, feedback=feedback != "none", make_model=wide, phases=[every] * rounds)
    kit.assert_told(seen, told.starts, told.outer, rounds)
