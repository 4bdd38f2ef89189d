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
"""A landing is looked at only where it moved the model by four times as much as a step, or more."""
_EXPLAINED = 0.9
"""Cosine of a step and its gradient from which on the gradient is why it went back."""


@dataclass(slots=True)
class _Landing:
    """Samples of some parameters around one landing."""

    tensors: list[Tensor]
    before: Tensor
    after: Tensor | None = None
    next: Tensor | None = None
    """After the first inner step on it."""
    gradient: Tensor | None = None
    """By which that step went, if it is still there."""


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

    def before_write(self, places: Places) -> None:
        """A landing is about to be written."""
        self._copies.before_write(places)
        tensors: list[Tensor] = [tensor for _, tensor in places if isinstance(tensor, Parameter)]
        if not tensors or (self.optimizers and all(map(keeps_none, self.optimizers))):
            return
        chosen = tensors[:: -(-len(tensors) // _TENSORS)]
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
            if each.next is None:
                each.next, each.gradient = _sample(each.tensors), _gradient(each.tensors)
                continue
            del self._watched[key]
            if not _is_undone(each, _sample(each.tensors)):
                self._suspected.discard(key)
            elif each.gradient is None and key not in self._suspected:
                self._suspected.add(key)  # it may have been the gradient, which is gone
            else:
                self._found(each)

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


def _is_undone(landing: _Landing, now: Tensor) -> bool:
    """Whether the first step on a landing went back to where the model had been, of which the second one,
    ``now``, shows how far a step goes."""
    assert landing.after is not None, "it was written"
    assert landing.next is not None, "a step was taken"
    moved = float((landing.after - landing.before).norm())
    if not max(float((landing.next - landing.before).norm()), float((now - landing.next).norm())) < (
        _CLEAR * moved
    ):
        return False
    if landing.gradient is None:
        return True
    step = landing.after - landing.next
    return float(torch.cosine_similarity(step, landing.gradient, dim=0)) < _EXPLAINED


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
