"""Whether a part makes anything of use: it is tried on values of its own, whatever its neighbours send.

Owns those values and what of them is of use; when a part is tried, and what follows, is `refusals`'. Leaves
the part as it was: nothing is counted and no gradient is added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diloco.errors import BoundaryError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart

_OWN = MicrobatchId(b"", 0, 0)


def makes_nothing(part: RunningPart, fed: Tensor | None, targets_shape: tuple[int, ...]) -> bool:
    """Whether forward or backward of ordinary values, normal ones, is not finite; at stage 0 of what it was
    ``fed`` with. At the last stage the targets are the classes 0 and 1 in turn."""
    model = part.model
    trains, parameters = model.training, list(model.parameters())
    earlier = [each.grad for each in parameters]
    model.zero_grad(set_to_none=True)
    model.eval()  # running statistics stay as they are
    try:
        _try(part, fed, targets_shape)
    except BoundaryError:
        return True
    finally:
        part.drop(_OWN)
        model.train(trains)
        for parameter, before in zip(parameters, earlier, strict=True):
            parameter.grad = before
    return False


def _try(part: RunningPart, fed: Tensor | None, targets_shape: tuple[int, ...]) -> None:
    x = fed if part.takes is None else _normal(part.takes)
    assert x is not None, "stage 0 refuses nothing before it was fed"
    if part.gives is None:
        part.forward_backward(_OWN, x, torch.arange(math.prod(targets_shape)).view(targets_shape) % 2)
    else:
        part.forward(_OWN, x)
        part.backward(_OWN, _normal(part.gives) / part.nominal_tokens)


def _normal(boundary: Boundary) -> Tensor:
    drawn = torch.randn(boundary.shape, generator=torch.Generator().manual_seed(0))
    if boundary.ids:
        drawn[..., -1] = 0
    return drawn.to(boundary.dtype)
