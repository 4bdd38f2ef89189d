"""How long each layer of a model takes on this machine, forward and backward, and how large it is.

Owns the measurement: one layer is held at a time, fed with what the one before it made, as in training.
Draws no conclusion (`balancing`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diloco.errors import PipelineError
from diloco.pipeline.cutting import Layer
from diloco.pipeline.part import Loss

REPEATS = 5


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer and one microbatch."""

    forward_s: float
    backward_s: float
    """Without the forward that is run again with ``recompute``."""
    parameters: int
    output: int
    """Values that it hands up."""

    def seconds(self, *, recompute: bool) -> float:
        """What it takes in training."""
        return self.forward_s + self.backward_s + (self.forward_s if recompute else 0.0)


def time_layers(
    layers: Sequence[Layer],
    x: Tensor,
    targets: Any,
    loss: Loss,
    device: torch.device,
    *,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[LayerCost]:
    """The median of ``repeats`` times of each layer, after one that is not counted. ``x`` is what the first
    is fed with; the loss counts as a part of the last. Raises `PipelineError` for a layer that does not
    return one tensor, and for one through which no gradient comes back."""
    costs = []
    for index, layer in enumerate(layers):
        built = (layer if isinstance(layer, nn.Module) else layer()).to(device)
        above = None if index < len(layers) - 1 else (loss, targets)
        cost, x = _time_layer(index, built, x.to(device), above, repeats, clock)
        costs.append(cost)
    return costs


def _time_layer(
    index: int,
    layer: nn.Module,
    x: Tensor,
    above: tuple[Loss, Any] | None,
    repeats: int,
    clock: Callable[[], float],
) -> tuple[LayerCost, Tensor]:
    forwards, backwards = [], []
    for _ in range(repeats + 1):
        x = x.detach()
        if x.is_floating_point():
            x.requires_grad_()
        began = _now(x.device, clock)
        output = layer(x)
        if not isinstance(output, Tensor):
            raise PipelineError(f"layer {index} returns a {type(output).__name__}, not one tensor")
        ends = above[0](output, above[1].to(output.device))[0] if above is not None else output
        between = _now(x.device, clock)
        if ends.requires_grad:
            torch.autograd.backward(ends, None if above is not None else torch.ones_like(ends))
        elif x.requires_grad or above is not None:
            raise PipelineError(f"no gradient comes back through layer {index}: what it makes has none")
        forwards.append(between - began)
        backwards.append(_now(x.device, clock) - between)
        layer.zero_grad(set_to_none=True)
    size = sum(each.numel() for each in layer.parameters())
    cost = LayerCost(statistics.median(forwards[1:]), statistics.median(backwards[1:]), size, output.numel())
    return cost, output.detach()


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
