"""A model's float buffers, of which one last round makes the mean: which those are, and the live tensors.

Owns the choice: floats that the model's state dict has, such as BatchNorm's statistics, and of integers only
BatchNorm's count of batches. Buffers with an infinity, or the least number that there is, are constants, as
masks are, and stay out. Buffers are looked up in their modules each time: some modules replace them, where
others write into them. One that takes another shape or dtype is left alone from then on, and what it was last
stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diloco.errors import LayoutError
from diloco.outer.layout import Layout, TensorSpec
from diloco.outer.plain_names import PlainNames
from diloco.outer.shards import local_part

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_COUNT = "num_batches_tracked"
_LARGEST = 1e15
"""No statistic is larger, and squares of many such can be added up."""


class LiveBuffers:
    """The buffers of ``model`` that are averaged, chosen once. Raises `LayoutError` for one that could not be
    anybody's: it is not a number, or has no memory."""

    def __init__(self, model: nn.Module) -> None:
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self._last: dict[str, Tensor] = {}
        """As they were when they were looked up last, and of their specs."""
        self._changed: dict[str, str] = {}
        self.specs: tuple[TensorSpec, ...] = ()
        """In the order in which the modules registered them; each storage once."""
        self.constants: tuple[str, ...] = ()
        """Floats that stay out for the numbers that they hold now."""
        seen, start = (
            {(str(p.device), p.data_ptr()) for p in map(local_part, model.parameters()) if p.numel()},
            0,
        )
        for name, module, attribute in _persistent(model):
            tensor = _held(module, attribute)
            if tensor.numel() and _is_averaged(name, attribute, tensor):
                place = str(tensor.device), tensor.data_ptr()
                if place not in seen:
                    seen.add(place)
                    self._owners[name], self._last[name] = (module, attribute), tensor
                    spec = TensorSpec(name, tuple(tensor.shape), tensor.dtype, start, tensor.numel())
                    self.specs, start = (*self.specs, spec), start + spec.num_elements
            elif tensor.numel() and tensor.dtype in _FLOATS and float(tensor.abs().max()) > _LARGEST:
                self.constants = (*self.constants, name)

    def places(self) -> list[tuple[slice, Tensor]]:
        """Where each lies in the vector of all, and the tensor as it is now; of one that has become another
        since, what it was last, which nobody uses any more."""
        return [(spec.span, self._tensor(spec)) for spec in self.specs]

    def changed(self) -> list[str]:
        """Those that were found to be others than when they were attached, for people, each once."""
        self.places()
        told, self._changed = self._changed, dict.fromkeys(self._changed, "")
        return [line for line in told.values() if line]

    def added_to(self, layout: Layout) -> Layout:
        """The layout with these as one fragment more, the last."""
        return Layout((*layout.fragments, self.specs), layout.frozen)

    def _tensor(self, spec: TensorSpec) -> Tensor:
        if spec.name in self._changed:
            return self._last[spec.name]
        module, attribute = self._owners[spec.name]
        tensor = module._buffers.get(attribute)
        if tensor is None or tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
            self._changed[spec.name] = (
                f"buffer {spec.name} was {spec.describe()} when it was attached, and is"
                f" {_described(tensor)} now: what changes so is not averaged, each worker keeps its own"
            )
        else:
            self._last[spec.name] = tensor.detach()
        return self._last[spec.name]


def as_stored(values: Tensor, tensor: Tensor) -> Tensor:
    """The fp32 ``values`` that ``tensor`` is to hold: a count is whole, and what has more bits keeps
    those where it is the same in fp32, or a constant would be rounded."""
    if tensor.dtype == torch.float64:
        live = tensor.detach()
        return torch.where(live.float() == values.to(live.device), live, values.to(live))
    return values if tensor.is_floating_point() else values.round()


def _persistent(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and attribute of the buffers that the state dict of ``model`` has."""
    plain = PlainNames(model)
    for path, module in model.named_modules():
        for attribute, tensor in module._buffers.items():
            if tensor is not None and attribute not in module._non_persistent_buffers_set:
                yield plain(f"{path}.{attribute}" if path else attribute), module, attribute


def _described(tensor: Tensor | None) -> str:
    if tensor is None:
        return "gone"
    return TensorSpec("", tuple(tensor.shape), tensor.dtype, -1, tensor.numel()).describe()


def _held(module: nn.Module, attribute: str) -> Tensor:
    tensor = module._buffers[attribute]
    assert tensor is not None, "it was there when it was chosen"
    return tensor.detach()


def _is_averaged(name: str, attribute: str, tensor: Tensor) -> bool:
    if tensor.dtype not in _FLOATS:
        return attribute == _COUNT and tensor.numel() == 1 and not tensor.is_complex()
    if any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        return False  # one value shown as many, which nobody writes into
    if tensor.is_meta:
        raise LayoutError(f"buffer {name} is on the meta device: give it memory before you attach the model")
    if bool(torch.isnan(tensor).any()):
        raise LayoutError(
            f'buffer {name} has values that are NaN: begin it anew, or set [method] buffers = "local"'
        )
    return float(tensor.abs().max()) <= _LARGEST
