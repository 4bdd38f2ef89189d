"""What is beside the parameters and not finite: what begins anew, and what is only named."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import nn

from diloco.outer.inner_state import InnerState
from tests.diloco.outer.kit import make

Optimizer = torch.optim.Optimizer
MAKERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def step(model: nn.Module, optimizer: Optimizer, gradient: float) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def values(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", MAKERS)
def test_after_one_nan_gradient_an_optimizer_trains_on_as_if_it_were_new(name: str) -> None:
    model, fresh = make(), make()
    optimizer = MAKERS[name](model.parameters())
    before = values(model)
    for _ in range(30):
        step(model, optimizer, 0.5)
    step(model, optimizer, torch.nan)
    said = InnerState(model, optimizer).mend()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)
    new = MAKERS[name](fresh.parameters())
    for _ in range(3):
        step(model, optimizer, 0.5)
        step(fresh, new, 0.5)
    for mine, its in zip(values(model), values(fresh), strict=True):
        torch.testing.assert_close(mine, its)
    assert len(said) == 1
    assert "of parameters 0.weight, 0.bias, 1.weight, 1.bias" in said[0]


def test_state_that_is_finite_stays_as_it_is_and_nothing_is_said() -> None:
    model = make()
    optimizer = MAKERS["adamw"](model.parameters())
    step(model, optimizer, 0.5)
    before = {id(t): t.clone() for state in optimizer.state.values() for t in state.values()}
    assert InnerState(model, optimizer).mend() == []
    after = [t for state in optimizer.state.values() for t in state.values()]
    assert all(torch.equal(before[id(t)], t) for t in after)


def test_the_whole_state_of_a_parameter_is_reset_if_some_of_it_is_not_finite() -> None:
    model = make()
    optimizer = MAKERS["adamw"](model.parameters())
    step(model, optimizer, 0.5)
    state = optimizer.state[model[0].bias]
    state["exp_avg"][1] = torch.inf
    (said,) = InnerState(model, optimizer).mend()
    assert said.startswith("1 tensors of the inner optimizer")
    assert said.endswith("of parameters 0.bias")
    assert not state["exp_avg"].any()
    assert not state["exp_avg_sq"].any()
    assert optimizer.state[model[1].bias]["exp_avg_sq"].all()


def test_parameters_without_an_optimizer_that_is_known_are_named() -> None:
    model = make()
    (said,) = InnerState(model, None).mend()
    assert "could not be looked at: parameters 0.weight, 0.bias, 1.weight, 1.bias" in said
    (said,) = InnerState(model, MAKERS["adamw"](model[0].parameters())).mend()
    assert said.endswith("could not be looked at: parameters 1.weight, 1.bias")


def test_running_statistics_begin_anew_and_other_buffers_are_named() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model.register_buffer("scale", torch.tensor([1.0, torch.nan]))
    model.register_buffer("positions", torch.arange(3))
    model(torch.full((4, 3), 2.0))
    kept = model[1].running_mean.clone()
    model[0].running_var[0] = torch.nan
    said = InnerState(model, torch.optim.SGD(model.parameters(), lr=0.1)).mend()
    assert said[0].endswith("of layers 0")
    assert "as only the model knows how they begin: scale" in said[1]
    assert torch.equal(model[0].running_var, torch.ones(3))
    assert torch.equal(model[1].running_mean, kept)
