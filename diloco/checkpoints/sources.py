"""The live parameters and the inner optimizer of a worker, as objects with state dicts.

What is put back is put back in place: other parts hold on to these tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diloco.errors import StateError
from diloco.outer.plain_names import named_buffers, named_parameters, named_state


class LiveModel:
    """The trained parameters of ``model`` under ``names`` as they are between two steps, and all buffers."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self._model = model
        self._names = names

    @property
    def is_finite(self) -> bool:
        """Whether it can be gone on from: a loop that ended by an error may have come to anything."""
        return all(bool(torch.isfinite(each).all()) for each in self._parameters().values())

    def state_dict(self) -> dict[str, Any]:
        """The tensors themselves, by name, and which buffers the model's own state dict has."""
        tensors = self._tensors()
        named = named_state(self._model).keys()
        return {**tensors, "persistent": [name for name in tensors["buffers"] if name in named]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy them back. Raises `StateError`, before anything changes, where names or shapes differ."""
        for kind, ours in self._tensors().items():
            _require_alike(kind, ours, state.get(kind, {}))
        for kind, ours in self._tensors().items():
            for name, tensor in ours.items():
                with torch.no_grad():
                    tensor.copy_(state[kind][name])

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {"parameters": self._parameters(), "buffers": dict(named_buffers(self._model))}

    def _parameters(self) -> dict[str, Tensor]:
        known = dict(named_parameters(self._model, remove_duplicate=False))
        return {name: known[name].detach() for name in self._names}


class InnerOptimizer:
    """A torch optimizer, whose tensors of state stay the same ones."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises what the optimizer does if it has other parameters."""
        before = {parameter: dict(held) for parameter, held in self._optimizer.state.items()}
        self._optimizer.load_state_dict(state)
        for parameter, held in self._optimizer.state.items():
            for key, tensor in before.get(parameter, {}).items():
                new = held.get(key)
                if isinstance(tensor, Tensor) and isinstance(new, Tensor) and new.shape == tensor.shape:
                    tensor.copy_(new)
                    held[key] = tensor


def _require_alike(kind: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            raise StateError(f"{kind}: {name} is not in both, or has another shape")
