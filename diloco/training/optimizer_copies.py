"""Copies of parameters that an optimizer keeps in its state, which a landing has to move along.

Owns the usual ones: masters of another dtype (or the same), found because they equal the parameter that was
rounded from them, and the points of schedule-free optimizers and of Lookahead, which all begin anew at what
landed: moved by as much as the parameter, schedule-free's came to worse models. Others are left as they are:
see `landings`, which finds out whether that was wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diloco.outer.model_tensors import Places
from diloco.outer.shards import local_part

_BESIDE = ("z", "x")
"""Schedule-free's own points of a parameter (arXiv 2405.15682), as its authors' package names them."""
_SLOW = ("slow_param", "slow_params", "slow_buffer", "lookahead_slow_buff")
"""Lookahead's slow weights (arXiv 1907.08610), as the packages name them that have it."""


def keeps_none(optimizer: torch.optim.Optimizer) -> bool:
    """Torch's own optimizers step the parameters themselves."""
    return type(optimizer).__module__.partition(".")[0] == "torch"


class OptimizerCopies:
    """What ``optimizers`` keep of the parameters that they step (a `WriteWatcher`)."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = [each for each in optimizers if not keeps_none(each)]
        self._masters: set[str] = set()
        """Keys of state that were once found to be a copy of a parameter that is not zero."""
        self._found: dict[int, list[tuple[str, Tensor]]] = {}
        self._points: dict[int, list[Tensor]] = {}

    def source(self, tensor: Tensor) -> Tensor:
        """The master that a parameter was rounded from, or itself: what a worker learned may be less than the
        parameter's dtype shows."""
        for optimizer in self._optimizers:
            if not _is_schedule_free(optimizer):
                for key, held in _alike(tensor, optimizer.state.get(tensor, {})):
                    is_master = held.dtype == torch.float32 and (key in self._masters or bool(held.any()))
                    if is_master and _is_rounded(tensor, held):
                        return held
        return tensor.detach()

    def before_write(self, places: Places) -> None:
        """Find what goes with the parameters, while it is equal to them."""
        self._found, self._points = {}, {}
        free = {id(each): _is_schedule_free(each) for each in self._optimizers}
        for _, tensor in places:
            for optimizer in self._optimizers:
                state = optimizer.state.get(tensor, {})
                points = _BESIDE if free[id(optimizer)] else _SLOW
                found = [t for key, t in _alike(tensor, state) if key in points]
                self._points.setdefault(id(tensor), []).extend(found)
                if not free[id(optimizer)]:
                    equal = [(key, t) for key, t in _alike(tensor, state) if _is_rounded(tensor, t)]
                    self._masters |= {key for key, t in equal if bool(t.any())}
                    self._found[id(tensor)] = equal

    def written(self, places: Places, values: Tensor) -> None:
        """Move it along."""
        for span, tensor in places:
            new = values[span].view(local_part(tensor).shape)
            for key, held in self._found.get(id(tensor), ()):
                if key in self._masters:  # zeros alone may be a moment that has not begun
                    held.copy_(new)
            for point in self._points.get(id(tensor), ()):
                point.copy_(new)
        self._found, self._points = {}, {}


def _is_rounded(tensor: Tensor, held: Tensor) -> bool:
    """Whether ``tensor`` is what ``held`` is in its dtype, bit for bit."""
    part = local_part(tensor)
    return torch.equal(held.to(device=part.device, dtype=part.dtype), part)


def _is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    return any("train_mode" in group for group in optimizer.param_groups)


def _alike(tensor: Tensor, state: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for key, held in state.items():
        alike = isinstance(held, Tensor) and held is not tensor and held.shape == tensor.shape
        if alike and held.is_floating_point():
            yield key, local_part(held)
