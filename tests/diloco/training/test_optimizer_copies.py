"""What optimizers keep of parameters goes with them when they are written, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diloco.training.optimizer_copies import OptimizerCopies, keeps_none


class Keeps(torch.optim.Optimizer):
    """An optimizer of somebody's own with this state of a parameter."""

    def __init__(self, state: dict[Tensor, dict[str, Any]], **group: Any) -> None:
        super().__init__(state, {"lr": 0.1, **group})
        self.state.update(state)

    def step(self, closure: Any = None) -> None: ...


def write(optimizer: torch.optim.Optimizer, tensors: list[Tensor], values: float) -> None:
    copies = OptimizerCopies([optimizer])
    places, start = [], 0
    for each in tensors:
        places.append((slice(start, start + each.numel()), each))
        start += each.numel()
    copies.before_write(places)
    with torch.no_grad():
        for each in tensors:
            each.fill_(values)
    copies.written(places, torch.full((start,), values))


def test_a_master_takes_all_bits_and_a_moment_stays() -> None:
    weight = torch.tensor([0.1, 0.2], dtype=torch.bfloat16)
    state = {"master": torch.tensor([0.1, 0.2]), "exp_avg": torch.zeros(2), "step": torch.tensor(3.0)}
    assert not torch.equal(state["master"], weight.float())
    write(Keeps({weight: state}), [weight], 1.001)
    assert torch.equal(state["master"], torch.full((2,), 1.001))
    assert not state["exp_avg"].any()


def test_of_parameters_that_are_zero_a_master_is_known_by_those_that_are_not() -> None:
    """As of a new adapter, one half of which begins with zeros: a moment looks just like its master."""
    a, b = torch.ones(2), torch.zeros(2)
    states = {p: {"master": p.clone(), "moment": torch.zeros(2)} for p in (b, a)}
    write(Keeps(states), [b, a], 3.0)
    assert all(torch.equal(state["master"], torch.full((2,), 3.0)) for state in states.values())
    assert not any(state["moment"].any() for state in states.values())


def test_what_is_no_copy_stays() -> None:
    weight = torch.ones(2)
    state = {
        "other": torch.tensor([1.0, 1.1]),
        "short": torch.ones(1),
        "whole": torch.ones(2, dtype=torch.int64),
    }
    before = {name: each.clone() for name, each in state.items()}
    write(Keeps({weight: state}), [weight], 3.0)
    assert all(torch.equal(state[name], each) for name, each in before.items())


@pytest.mark.parametrize("point", ["z", "x"])
def test_points_of_schedule_free_begin_anew_at_what_landed(point: str) -> None:
    weight = torch.tensor([1.0, 2.0])
    state = {point: torch.tensor([0.5, 4.0]), "exp_avg_sq": torch.tensor([1.0, 2.0])}
    write(Keeps({weight: state}, train_mode=True), [weight], 3.0)
    assert torch.equal(state[point], weight)
    assert torch.equal(state["exp_avg_sq"], torch.tensor([1.0, 2.0]))


def test_torchs_own_optimizers_are_not_looked_at() -> None:
    assert keeps_none(torch.optim.ASGD([torch.ones(1)]))
    assert not keeps_none(Keeps({torch.ones(1): {}}))
