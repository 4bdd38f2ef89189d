"""What becomes of a landing: whoever keeps copies of the parameters is told, and who undoes it is found out.

An optimizer that steps a copy of its own writes the next step over what landed, and the worker trains on as
if there were no swarm. Owns finding that out from samples of the live parameters around a landing, and the
callbacks. Decides nothing about when anything lands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from diloco.errors import OptimizerUndoes
from diloco.outer.model_tensors import Places
from diloco.outer.shards import local_part
from diloco.training.optimizer_copies import OptimizerCopies, keeps_none

_TENSORS, _VALUES = 8, 512
"""How many tensors of a landing are looked at, and how many values of each."""
_CLEAR = 0.25
"""A step undoes a landing if it goes back on it by so much of it at once, and is the step that is four times
as long as others."""
_BACK = 0.9
"""Cosine of a step and the way back from which on it goes that way."""
_EXPLAINED = 0.9
"""Cosine of a step and its gradient from which on the gradient is why it went back."""
_WATCHED_STEPS = 32
"""Inner steps after a landing that are looked at: Lookahead goes back to its slow weights every few."""


@dataclass(slots=True)
class _Landing:
    """Samples of some parameters around one landing, and after the steps that followed."""

    tensors: list[Tensor]
    before: Tensor
    after: Tensor | None = None
    steps: list[Tensor] = field(default_factory=list)
    """What the last two inner steps added."""
    gradients: list[Tensor | None] = field(default_factory=list)
    """By which they went, if those were still there."""
    last: Tensor | None = None
    """After the last of them."""
    num_steps: int = 0
    longest: float = 0.0
    """Of the steps before those two."""

    def stepped(self) -> None:
        """An inner step is over."""
        assert self.after is not None, "it was written"
        now, since = _sample(self.tensors), self.after if self.last is None else self.last
        if len(self.steps) == 2:
            self.longest = max(self.longest, float(self.steps.pop(0).norm()))
            self.gradients.pop(0)
        self.steps.append(now - since)
        self.gradients.append(_gradient(self.tensors))
        self.last, self.num_steps = now, self.num_steps + 1

    def undone_by(self) -> Tensor | None:
        """The last step but one, if it went back to where the model had been: the one after it, and those
        before, show how long a step is. It is not the gradient's if that is known."""
        assert self.after is not None, "it was written"
        if len(self.steps) < 2:
            return None
        step, back = self.steps[0], self.before - self.after
        moved, length = float(back.norm()), float(step.norm())
        others = max(self.longest, float(self.steps[1].norm()))
        share = float(torch.dot(step, back)) / max(moved * moved, 1e-38)
        if not (share >= _CLEAR and length < 2 * moved and others < _CLEAR * length):
            return None
        if float(torch.cosine_similarity(step, back, dim=0)) < _BACK:
            return None
        gradient = self.gradients[0]
        explained = gradient is not None and (
            float(torch.cosine_similarity(-step, gradient, dim=0)) >= _EXPLAINED
        )
        return None if explained else step


@dataclass(slots=True)
class Landings:
    """Landings in ``model``, which ``optimizers`` step (a `WriteWatcher`)."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    _callbacks: list[Callable[[nn.Module], object]] = field(default_factory=list)
    _copies: OptimizerCopies = field(init=False)
    _watched: dict[int, _Landing] = field(default_factory=dict)
    _suspected: set[int] = field(default_factory=set)
    _has_landed: bool = False

    def __post_init__(self) -> None:
        self._copies = OptimizerCopies(self.optimizers)

    def call(self, callback: Callable[[nn.Module], object]) -> None:
        """Call it now, and after each landing."""
        self._callbacks.append(callback)
        callback(self.model)

    def source(self, tensor: Tensor) -> Tensor:
        """The master of a parameter if one is known, else itself."""
        return self._copies.source(tensor)

    def before_write(self, places: Places) -> None:
        """A landing is about to be written."""
        self._copies.before_write(places)
        tensors: list[Tensor] = [tensor for _, tensor in places if isinstance(tensor, Parameter)]
        if not tensors or (self.optimizers and all(map(keeps_none, self.optimizers))):
            return
        chosen = tensors[:: -(-len(tensors) // _TENSORS)]
        if id(tensors[0]) in self._watched:
            self._suspected.discard(id(tensors[0]))  # nothing undid the landing before this one
        self._watched[id(tensors[0])] = _Landing(chosen, _sample(chosen))

    def written(self, places: Places, values: Tensor) -> None:
        """It is written."""
        self._copies.written(places, values)
        self._has_landed = True
        for each in self._watched.values():
            if each.after is None:
                each.after = _sample(each.tensors)

    def tell(self) -> None:
        """Between two steps: call whoever waits for a landing, once for all that landed."""
        if self._has_landed:
            self._has_landed = False
            for callback in self._callbacks:
                callback(self.model)

    def stepped(self) -> None:
        """An inner step is over, before anything lands after it. Raises `OptimizerUndoes`."""
        for key, each in list(self._watched.items()):
            each.stepped()
            if each.undone_by() is not None:
                if each.gradients[0] is not None or key in self._suspected:
                    self._found(each)
                self._suspected.add(key)  # it may have been the gradient, which is gone
                del self._watched[key]
            elif each.num_steps > _WATCHED_STEPS:
                self._suspected.discard(key)
                del self._watched[key]

    def _found(self, landing: _Landing) -> NoReturn:
        raise OptimizerUndoes(
            f"{self._stepper(landing)} undid what landed in the model: it keeps a copy of the parameters."
            " Renew that in a callback: outer.on_landing(callback) calls it with the model now and after each"
            " landing"
        )

    def _stepper(self, landing: _Landing) -> str:
        parameters = {id(each) for each in landing.tensors}
        for optimizer in self.optimizers:
            if any(id(p) in parameters for group in optimizer.param_groups for p in group["params"]):
                return type(optimizer).__name__
        return "what steps the model (attach knows no optimizer)"


def _sample(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(_values(map(local_part, tensors))))


def _gradient(tensors: Sequence[Tensor]) -> Tensor | None:
    if all(tensor.grad is None for tensor in tensors):
        return None
    return _sample([torch.zeros_like(each) if each.grad is None else each.grad for each in tensors])


def _values(tensors: Iterator[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        stride = -(-tensor.numel() // _VALUES)
        yield tensor.reshape(-1)[:: max(1, stride)].float().cpu()
