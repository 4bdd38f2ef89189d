"""When one inner step of a loop is over: hooks on the optimizers that it steps.

Owns which of several optimizers is the last to step, and which calls of `step` moved nothing because a
gradient scaler skipped them. Counts no tokens and knows no swarm: it says that a step is over.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from diloco.errors import UserError

_WRAPPERS = {
    ("accelerate", "AcceleratedOptimizer"): "optimizer",
    ("lightning", "LightningOptimizer"): "optimizer",
}
"""Package and class of what wraps a torch optimizer, and where it holds that."""
_MAX_UNTOLD = 100
"""Steps of which a loop that is to tell its tokens says nothing, before that is an error."""


def optimizers_of(given: object) -> list[torch.optim.Optimizer]:
    """The torch optimizers that a loop hands over: none, one, or several in the order in which they step,
    each out of the wrappers that are known. Raises `UserError` for what cannot be hooked."""
    if given is None:
        return []
    several = given if isinstance(given, Iterable) else [given]
    found = [_hookable(_unwrapped(each)) for each in several]
    if not found:
        raise UserError("attach was given an empty list of optimizers: give None if none can be hooked")
    return list({id(each): each for each in found}.values())


def _unwrapped(optimizer: Any) -> Any:
    kind = type(optimizer)
    package = kind.__module__.partition(".")[0].removeprefix("pytorch_")
    wraps = (package, kind.__name__) in _WRAPPERS
    return _unwrapped(optimizer.optimizer) if wraps else optimizer


def _hookable(optimizer: Any) -> torch.optim.Optimizer:
    if isinstance(optimizer, torch.optim.Optimizer) and hasattr(optimizer, "_optimizer_step_post_hooks"):
        return optimizer
    raise UserError(
        f"{type(optimizer).__name__} is no torch optimizer whose step can be hooked: give attach the one that"
        " it wraps, or None and call outer.step_done() after each inner step"
    )


class StepHooks:
    """Hooks on ``optimizers``; ``ended`` is called when an inner step is over. If the loop tells of it by
    itself (``told``) it is never called, and `take` says whether there was one."""

    def __init__(
        self, optimizers: list[torch.optim.Optimizer], ended: Callable[[], None], *, told: bool
    ) -> None:
        self._optimizers = optimizers
        self._ended = ended
        self._told = told
        self._last = len(optimizers) - 1
        """Which of them ends a step that nobody tells of: the last in the list, until another is seen to step
        after it."""
        self._used: _Gradient | None = None
        """A gradient that the last one stepped by, as it was then."""
        self._untold = [0] * len(optimizers)
        """Steps of each of which the loop has told nothing yet."""
        self._hooks = [
            each.register_step_post_hook(lambda *_, at=index: self._stepped(at))
            for index, each in enumerate(optimizers)
        ]

    @property
    def counts(self) -> bool:
        """Whether steps are counted here, so that nobody else may."""
        return bool(self._hooks) and not self._told

    def take(self) -> bool:
        """The loop says that a step is over: whether an optimizer, whichever, moved anything in it."""
        stepped = any(self._untold)
        self._untold = [0] * len(self._optimizers)
        return stepped or not self._hooks

    def remove(self) -> None:
        """Unhook."""
        for each in self._hooks:
            each.remove()
        self._hooks = []

    def _stepped(self, index: int) -> None:
        optimizer = self._optimizers[index]
        if _was_skipped(optimizer):
            return
        if self._told:
            self._untold[index] += 1
            if self._untold[index] > _MAX_UNTOLD:
                raise UserError(
                    f"{_MAX_UNTOLD} steps of the optimizer, and no outer.step_done(tokens) after them: call"
                    " it after each inner step, or give attach tokens_per_step"
                )
        elif index == self._last:
            self._used = _Gradient.of(optimizer)
            self._ended()
        elif self._used is not None and self._used.is_untouched:
            # No backward lies between: it belongs to the step that was taken for over.
            self._last, self._used = index, _Gradient.of(optimizer)


def _was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """A fused optimizer is called although its gradient scaler found values that are not finite, and looks at
    that by itself; others are not called at all then."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.any())


class _Gradient:
    """The first gradient that an optimizer has, as it is now."""

    def __init__(self, parameter: Tensor, gradient: Tensor) -> None:
        self._parameter = weakref.ref(parameter)
        self._gradient = weakref.ref(gradient)
        self._version = gradient._version

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> _Gradient | None:
        every = (p for group in optimizer.param_groups for p in group["params"])
        return next((cls(each, each.grad) for each in every if each.grad is not None), None)

    @property
    def is_untouched(self) -> bool:
        """Whether neither a backward nor anybody else wrote it since."""
        parameter, gradient = self._parameter(), self._gradient()
        return (
            parameter is not None
            and gradient is not None
            and parameter.grad is gradient
            and gradient._version == self._version
        )
