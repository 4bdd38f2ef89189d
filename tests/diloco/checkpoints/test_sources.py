"""Live parameters and the inner optimizer: put back in place, or refused before anything changes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from diloco.checkpoints.sources import InnerOptimizer, LiveModel
from diloco.errors import StateError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def names(of: nn.Module) -> list[str]:
    return [name for name, _ in of.named_parameters()]


def train(made: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    made(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()


def test_parameters_and_buffers_are_put_back_into_the_same_tensors() -> None:
    made = model()
    weight = made[0].weight
    live = LiveModel(made, names(made))
    before = deepcopy(live.state_dict())
    train(made, torch.optim.SGD(made.parameters(), lr=1.0))
    assert not torch.equal(made[1].running_mean, before["buffers"]["1.running_mean"])
    live.load_state_dict(before)
    assert made[0].weight is weight
    assert torch.equal(weight, before["parameters"]["0.weight"])
    assert torch.equal(made[1].running_mean, before["buffers"]["1.running_mean"])
    assert int(made[1].num_batches_tracked) == 0


@pytest.mark.parametrize("kind", ["parameters", "buffers"])
def test_those_of_another_model_are_refused_before_anything_changes(kind: str) -> None:
    made = model()
    live = LiveModel(made, names(made))
    other = deepcopy(live.state_dict())
    for each in other["parameters"].values():
        each.add_(1)
    other[kind].popitem()
    before = deepcopy(live.state_dict())
    with pytest.raises(StateError, match=f"^{kind}: "):
        live.load_state_dict(other)
    for name, tensor in live.state_dict()["parameters"].items():
        assert torch.equal(tensor, before["parameters"][name])


def test_parameters_that_are_not_finite_are_known() -> None:
    made = model()
    live = LiveModel(made, names(made))
    assert live.is_finite
    with torch.no_grad():
        made[0].bias[1] = float("inf")
    assert not live.is_finite


def test_an_optimizer_goes_on_with_the_tensors_that_others_hold() -> None:
    made = model()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1)
    train(made, optimizer)
    kept = InnerOptimizer(optimizer)
    before = deepcopy(kept.state_dict())
    moment = optimizer.state[made[0].weight]["exp_avg"]
    optimizer.param_groups[0]["lr"] = 0.7
    train(made, optimizer)
    kept.load_state_dict(before)
    assert optimizer.state[made[0].weight]["exp_avg"] is moment
    assert torch.equal(moment, before["state"][0]["exp_avg"])
    assert float(optimizer.state[made[0].weight]["step"]) == 1.0
    assert optimizer.param_groups[0]["lr"] == 0.1
