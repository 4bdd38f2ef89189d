"""What a loop hands over that does not fit together is refused by name, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import diloco
from diloco.training.fitting import require_stepped


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_a_parameter_that_no_optimizer_has_is_refused_by_name_before_anything_is_sent() -> None:
    model = net()
    matrices = torch.optim.Muon([each for each in model.parameters() if each.dim() == 2], lr=0.01)
    with diloco.solo() as swarm:
        with pytest.raises(
            diloco.LayoutError, match=r"in no optimizer \(Muon\): 0.bias, 1.weight, 1.bias, 2.bias"
        ):
            diloco.attach(model, matrices, swarm)
        assert swarm.status()["members"] == []
    model.append(nn.LayerNorm(2))
    with pytest.raises(diloco.LayoutError, match=r"2.bias and 2 more; give attach a list"):
        require_stepped(model, [matrices])


def test_an_optimizer_of_copies_is_refused() -> None:
    model = net()
    copies = torch.optim.SGD([each.detach().clone() for each in model.parameters()], lr=0.1)
    with pytest.raises(diloco.LayoutError, match=r"SGD steps no parameter of this model, not even 0\.weight"):
        require_stepped(model, [copies])


def test_frozen_and_tied_parameters_need_no_optimizer_of_their_own() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    model.append(nn.Linear(4, 2))
    model[3].weight = nn.Parameter(model[2].weight.data)  # one memory, two parameters
    model[3].bias = model[2].bias
    distinct = [each for name, each in model.named_parameters() if each.requires_grad and name != "3.weight"]
    require_stepped(model, [torch.optim.SGD(distinct, lr=0.1)])


def _attached(swarm: diloco.Swarm, model: nn.Module) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    diloco.attach(model, optimizer, swarm, timeout_s=30.0)

    def step() -> None:
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()

    return optimizer, step


def _unfreeze(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[0].weight.requires_grad_(True)
    optimizer.add_param_group({"params": [model[0].weight]})


def _append(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model.append(nn.Linear(2, 2))
    optimizer.add_param_group({"params": list(model[3].parameters())})


def _replace(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    optimizer.add_param_group({"params": [model[2].weight]})


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (_unfreeze, r"0\.weight is trained now and was frozen when the model was attached"),
        (_append, r"3\.weight is trained now and was not in the model when"),
        (_replace, r"2\.weight is trained now and was not in the model when"),
        (lambda model, _: model.pop(2), r"the model has lost 2 of the parameters that were attached"),
    ],
)
def test_what_is_trained_later_is_refused_by_name_at_the_next_step(
    change: Callable[[nn.Sequential, torch.optim.Optimizer], object], refusal: str
) -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    with diloco.solo() as swarm:
        optimizer, step = _attached(swarm, model)
        step()
        change(model, optimizer)
        with pytest.raises(diloco.LayoutError, match=refusal):
            step()
        with pytest.raises(diloco.LayoutError, match=refusal):  # nor by a second attach
            diloco.attach(model, optimizer, swarm, timeout_s=30.0)


def test_what_was_trained_may_be_frozen_later() -> None:
    model = net()
    with diloco.solo() as swarm:
        _, step = _attached(swarm, model)
        step()
        model[0].requires_grad_(False)
        step()
        model[0].requires_grad_(True)
        step()
