"""What the workers of a reference test train: a small model, data of each worker's own, one inner step.

Plain torch, without anything of the project: reference loops and the swarm train the very same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
MakeModel = Callable[[], nn.Module]


class Layer(nn.Module):
    """One layer of `Net`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width + 1)
        self.down = nn.Linear(2 * width + 1, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))  # type: ignore[no-any-return]


class Net(nn.Module):
    """Layers of one width with an embedding before and a head after them. Its number of parameters is no
    multiple of 4096, nor is that of a layer."""

    def __init__(self, layers: int = 4, width: int = 13) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embed = nn.Linear(9, width)
        self.layers = nn.ModuleList([Layer(width) for _ in range(layers)])
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


def batch(worker: int, step: int) -> tuple[Tensor, Tensor]:
    """The data of a worker's inner step, its own: inputs of another scale, and another target."""
    draw = torch.Generator().manual_seed(1000 * worker + step)
    x = torch.randn(16, 9, generator=draw) * (1.0 + 0.5 * worker)
    return x, torch.roll(x[:, :3], worker, dims=1).sin()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The inner optimizer in which errors do not grow."""
    return torch.optim.SGD(model.parameters(), lr=0.05)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """An inner optimizer with a state of its own, which stays on the worker."""
    return torch.optim.AdamW(model.parameters(), lr=2e-3)


def inner_step(model: nn.Module, optimizer: torch.optim.Optimizer, worker: int, step: int) -> None:
    """Inner step number ``step`` (from 0) of a worker."""
    x, y = batch(worker, step)
    optimizer.zero_grad()
    (model(x) - y).square().mean().backward()
    optimizer.step()


def values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@dataclass
class Worker:
    """A worker of a reference loop: its own model, optimizer, data and count of steps."""

    index: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int = 0

    def train(self) -> None:
        """One inner step."""
        inner_step(self.model, self.optimizer, self.index, self.steps)
        self.steps += 1

    def load(self, new: dict[str, Tensor]) -> None:
        """Overwrite the named parameters."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in new.items():
                parameters[name].copy_(value)


def wide() -> nn.Module:
    """A model of several runs of 4096 parameters and a part of one."""
    return Net(width=29)


def workers(count: int, make_optimizer: MakeOptimizer = sgd, make_model: MakeModel = Net) -> list[Worker]:
    """Workers with equal models."""
    models = [make_model() for _ in range(count)]
    return [Worker(i, model, make_optimizer(model)) for i, model in enumerate(models)]


@dataclass
class Seen:
    """What one worker came to."""

    starts: list[dict[str, Tensor]] = field(default_factory=list)
    """Local parameters before each inner step."""
    outer: dict[str, Tensor] = field(default_factory=dict)
    """Outer parameters at the end."""
    outer_steps: list[int] = field(default_factory=list)
    """By fragment."""
    bytes_sent: int = 0
    """Of everything that this worker sent."""
    bulk_bytes: int = 0
    """Of contributions, means and states that it sent, with headers; 0 over sockets, which do not tell."""
    groups: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """With gossip, by outer step: the members of the group that it averaged in, rising."""
    pauses: list[int] = field(default_factory=list)
    """With gossip: inner steps done when too few members were there to swap with."""
