"""SPARTA (exo labs), and its delayed form as LOSCAR-SGD (arXiv 2605.20866) has it, against the whole stack.

Which elements are averaged is drawn, so the loop takes it from what moved, after it has checked that it is
one element of each run of ``mask_one_in``, and that all come to be drawn.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference import kit
from tests.reference.problem import Net, values, workers
from tests.reference.rounds import flat, num_parameters, unflat, weighted_mean

TOKENS = (8, 24, 16)


def sparta(
    seen: list[kit.Seen],
    steps: int,
    every: int,
    delay: int,
    one_in: int,
    replace: bool = False,
    tolerance: float = 1e-6,
) -> list[Tensor]:
    """Every ``every`` steps, on the common mask S:

        theta_m[S] <- mean theta_m[S];  elsewhere theta_m stays

    and if the mean m of the snapshots y comes ``delay`` steps later, below the steps made since (LOSCAR-SGD):

        x_j <- m + (z_j - y_j) on S, z_j elsewhere

    or, to ``replace`` local steps on S, x_j <- m.

    Fails where the stack goes another way. Returns the masks. The outer parameters are a patchwork: those of
    S are the last mean, the others older ones.
    """
    group = workers(len(TOKENS))
    shape = values(group[0].model)
    outer = flat(shape)
    snapshots: list[Tensor] = []
    masks = []
    for step in range(steps):
        for found, each in zip(seen, group, strict=True):
            kit.assert_equal(found.starts[step], values(each.model), tolerance)
            each.load(found.starts[step])  # else roundings of the mean would add up to other masks
            each.train()
        local = [flat(values(each.model)) for each in group]
        if (step + 1) % every == 0:
            snapshots = local
        if (step + 1 - delay) % every == 0 and snapshots:
            mean = weighted_mean(TOKENS, snapshots)
            moved = [flat(found.starts[step + 1]) != mine for found, mine in zip(seen, local, strict=True)]
            mask = torch.stack(moved).any(0)
            assert mask.sum() <= math.ceil(len(mask) / one_in)
            assert all(run.sum() <= 1 for run in mask.split(one_in))
            masks.append(mask)
            outer[mask] = mean[mask]
            for each, mine, y in zip(group, local, snapshots, strict=True):
                since = 0.0 if replace else mine - y
                each.load(unflat(torch.where(mask, mean + since, mine), shape))
    for found, each in zip(seen, group, strict=True):
        kit.assert_equal(found.starts[steps], values(each.model), tolerance)
        kit.assert_equal(found.outer, unflat(outer, shape), tolerance)
    return masks


@pytest.mark.parametrize("one_in", [4, 50])
def test_sparta_averages_a_random_subset_of_parameters_every_step(one_in: int) -> None:
    steps, n = 24, num_parameters(Net)
    method: dict[str, Any] = {"preset": "sparta", "mask_one_in": one_in}
    seen = kit.simulated(method, steps, TOKENS)
    masks = sparta(seen, steps, 1, 0, one_in)
    assert all(found.outer_steps == [steps] for found in seen)
    drawn = torch.stack(masks)
    assert float(drawn.sum()) >= 0.99 * steps * math.ceil(n / one_in)
    # "Coverage after n steps 1 - (1 - p)^n"
    covered = float(drawn.any(0).float().mean())
    assert covered == pytest.approx(1 - (1 - 1 / one_in) ** steps, abs=0.03)
    payload = steps * (len(TOKENS) - 1) * 2 * 4 * math.ceil(n / one_in)
    kit.assert_bulk(seen, payload, messages=steps * 2 * (len(TOKENS) - 1))


def test_one_in_one_is_averaging_of_all_parameters_every_step() -> None:
    """ "SPARTA p = 1: parameter averaging every step" """
    seen = kit.simulated({"preset": "sparta", "mask_one_in": 1}, 6, TOKENS)
    sparta(seen, 6, 1, 0, 1)
    for other in seen[1:]:
        kit.assert_equal(other.starts[6], seen[0].starts[6])


@pytest.mark.parametrize("merge", ["carry", "replace"])
def test_a_mean_that_comes_later_moves_the_masked_elements_only(merge: str) -> None:
    steps = 20  # the last result lands with the last step
    method = {"preset": "sparta", "mask_one_in": 4, "sync_every": 3, "delay": 2, "merge": merge}
    seen = kit.simulated(method, steps, TOKENS)
    assert len(sparta(seen, steps, 3, 2, 4, merge == "replace")) == 6


def test_the_masked_elements_travel_in_other_codecs() -> None:
    """In bf16 the parts are off by half a step, and their mean by another half, of pseudo-gradients that are
    below 0.1; the mask and all else are as before."""
    steps, n = 6, num_parameters(Net)
    seen = kit.simulated({"preset": "sparta", "mask_one_in": 4, "codec": "bf16"}, steps, TOKENS)
    sparta(seen, steps, 1, 0, 4, tolerance=2.0**-8 * 0.1)
    payload = steps * (len(TOKENS) - 1) * 2 * 2 * math.ceil(n / 4)
    kit.assert_bulk(seen, payload, messages=steps * 2 * (len(TOKENS) - 1))
