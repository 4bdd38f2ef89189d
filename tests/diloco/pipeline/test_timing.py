"""Times of layers: each by itself, fed with what the one before it made."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from diloco.errors import PipelineError
from diloco.pipeline.timing import time_layers
from tests.diloco.pipeline.kit import SEQUENCES, TOKENS, VOCABULARY, WIDTH, batches, layers, loss_sum

CPU = torch.device("cpu")


def test_each_layer_has_its_times_parameters_and_output() -> None:
    x, targets = batches(1)[0]
    seconds = itertools.count()
    costs = time_layers(layers(2), x, targets, loss_sum, CPU, repeats=3, clock=lambda: float(next(seconds)))
    assert [each.output for each in costs] == [TOKENS * WIDTH] * 3 + [TOKENS * VOCABULARY]
    built = [sum(p.numel() for p in make().parameters()) for make in layers(2)]
    assert [each.parameters for each in costs] == built
    assert all((each.forward_s, each.backward_s) == (1.0, 1.0) for each in costs)
    assert costs[0].seconds(recompute=True) == 3.0, "forward is run twice"
    assert costs[0].seconds(recompute=False) == 2.0


def test_the_first_time_is_not_counted() -> None:
    x, targets = batches(1)[0]
    began = [0.0, 100.0, 200.0]
    later = (300.0 + each for each in itertools.count())
    ticks = itertools.chain(began, later)
    costs = time_layers(layers(0)[:1], x, targets, lambda y, t: (y.sum(), 1), CPU, clock=lambda: next(ticks))
    assert (costs[0].forward_s, costs[0].backward_s) == (1.0, 1.0)


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def test_a_layer_that_returns_two_tensors_is_named() -> None:
    x = torch.zeros(SEQUENCES, WIDTH)
    with pytest.raises(PipelineError, match="layer 1 returns a tuple, not one tensor"):
        time_layers([nn.Linear(WIDTH, WIDTH), Two()], x, None, loss_sum, CPU)


class Frozen(nn.Embedding):
    def __init__(self) -> None:
        super().__init__(VOCABULARY, WIDTH)
        self.weight.requires_grad_(False)


def test_a_first_layer_with_nothing_to_train_has_no_backward() -> None:
    x, targets = batches(1)[0]
    ticks = (float(each**2) for each in itertools.count())
    found = time_layers(
        [Frozen(), *layers(0)[1:]], x, targets, loss_sum, CPU, repeats=1, clock=lambda: next(ticks)
    )
    assert [each.output for each in found] == [TOKENS * WIDTH, TOKENS * VOCABULARY]


class Cuts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


def test_a_layer_that_lets_no_gradient_through_is_named() -> None:
    x, targets = batches(1)[0]
    with pytest.raises(PipelineError, match="no gradient comes back through layer 1"):
        time_layers([*layers(0)[:1], Cuts(), *layers(0)[1:]], x, targets, loss_sum, CPU)
    with pytest.raises(PipelineError, match="no gradient comes back through layer 0"):
        time_layers([Frozen()], x, targets, lambda y, t: (y.sum(), 1), CPU)
