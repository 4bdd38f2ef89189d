"""Small models with known values, and training that is only noise: for the tests of outer state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def make(n: int = 12, seed: int = 0) -> nn.Sequential:
    """Two layers; of ``n`` inputs."""
    model = nn.Sequential(nn.Linear(n, 5), nn.Linear(5, 3))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(parameter.numel(), seed + i).view_as(parameter))
    return model


def flat(model: nn.Module) -> Tensor:
    """All parameters as one vector of fp32."""
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])


def train(model: nn.Module, seed: int) -> None:
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            noise = normal(parameter.numel(), 100 * seed + i).view_as(parameter) * 0.01
            parameter.add_(noise.to(parameter.dtype))
