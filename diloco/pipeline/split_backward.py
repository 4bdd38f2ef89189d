"""Backward in two: the gradient of a layer's input now, that of its weights later (Zero Bubble, 2401.10241).

Owns linear layers, where nearly all of the work is: their backward leaves what the gradient of the weight
follows from, and `WeightWork.add` computes it, by the operations that autograd would have used and in the
same order of sums, so with the same bits. All other parameters, and biases, get their gradients at once. A
weight that another module has too stays whole, and so do layers under autocast. When the rest is computed is
not decided here (`stage_loop`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter


class Left(NamedTuple):
    """One use of a weight whose gradient is to be computed."""

    weight: Parameter
    x: Tensor
    """[..., in]"""
    gradient: Tensor
    """Of the output, [..., out]."""


class WeightWork:
    """From now on the linear layers of ``model`` leave their weights' work here."""

    def __init__(self, model: nn.Module) -> None:
        self._left: list[Left] = []
        for layer in _split_layers(model):
            layer.forward = partial(_forward, layer, self._left)  # type: ignore[method-assign]

    def take(self) -> list[Left]:
        """What backward left since the last call, in its order."""
        taken, self._left[:] = list(self._left), []
        return taken

    @staticmethod
    @torch.no_grad()
    def add(left: Iterable[Left]) -> None:
        """Add the gradients of one microbatch to what the weights have."""
        found: dict[Parameter, Tensor] = {}
        for weight, x, gradient in left:
            here = gradient.reshape(-1, gradient.shape[-1]).t().mm(x.reshape(-1, x.shape[-1]))
            found[weight] = found[weight] + here if weight in found else here
        for weight, here in found.items():
            if weight.grad is None:
                weight.grad = here
            else:
                weight.grad.add_(here)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Parameter, bias: Parameter | None, left: list[Left]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.has_bias, ctx.left = weight, bias is not None, left
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        ctx.left.append(Left(ctx.weight, x, gradient))
        rows = gradient.reshape(-1, gradient.shape[-1])
        below = rows.mm(weight).view(x.shape) if ctx.needs_input_grad[0] else None
        return below, None, rows.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None, None


def _forward(layer: nn.Linear, left: list[Left], x: Tensor) -> Tensor:
    if x.dim() < 2 or torch.is_autocast_enabled(x.device.type):
        return F.linear(x, layer.weight, layer.bias)
    found: Tensor = _Split.apply(x, layer.weight, layer.bias, left)  # type: ignore[no-untyped-call]
    return found


def _split_layers(model: nn.Module) -> list[nn.Linear]:
    """Linear layers, no subclasses, with a weight to train that only such layers have."""
    layers = [each for each in model.modules() if type(each) is nn.Linear]
    elsewhere = {
        id(parameter)
        for module in model.modules()
        if type(module) is not nn.Linear
        for parameter in module.parameters(recurse=False)
    }
    return [each for each in layers if each.weight.requires_grad and id(each.weight) not in elsewhere]
