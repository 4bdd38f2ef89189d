"""The live tensors that a swarm shares: reading them as flat fp32 vectors, and writing them back.

Owns the way between a layout's vectors and the tensors of a model (and, for methods that average them, of its
inner optimizer). Holds no copies and decides nothing. Buffers of the model are never touched: see `layout`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from diloco.errors import LayoutError
from diloco.outer.layout import Layout, TensorSpec

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, as torch names it."""


class ModelTensors:
    """The tensors of one model, by the fragments of ``layout``. Vectors are fp32 on the CPU."""

    def __init__(self, layout: Layout, tensors: dict[str, Tensor], frozen: list[Parameter]) -> None:
        self.layout = layout
        self.frozen = frozen
        """Parameters that are not exchanged, but belong to the state that a joiner receives."""
        self._tensors = [[_matching(s, tensors) for s in specs] for specs in layout.fragments]
        self.page_locked = any(tensor.is_cuda for held in self._tensors for tensor in held)
        """Vectors are better kept in pinned memory: copies from and to the accelerator overlap with it."""

    @classmethod
    def of(
        cls, layout: Layout, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
    ) -> ModelTensors:
        """The parameters of ``model``; with ``optimizer``, AdamW's two moments of them as two fragments more,
        for DES-LOC (arXiv 2505.22549). Raises `LayoutError` if the tensors are not those of the layout, or
        the optimizer is not AdamW."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        frozen = [_matching(spec, parameters) for spec in layout.frozen]
        tensors: dict[str, Tensor] = dict(parameters)
        if optimizer is not None:
            (specs,) = layout.fragments
            moments = {spec.name: _moments(spec.name, parameters[spec.name], optimizer) for spec in specs}
            for which in MOMENTS:
                tensors |= {f"{which}/{name}": found[which] for name, found in moments.items()}
            layout = with_moments(layout)
        return cls(layout, tensors, [each for each in frozen if isinstance(each, Parameter)])

    def num_elements(self, fragment: int) -> int:
        """Length of the fragment's vector."""
        return self.layout.num_elements(fragment)

    def gather(self, fragment: int, out: Tensor) -> Tensor:
        """The live values of a fragment into ``out`` [n] fp32."""
        for spec, tensor in zip(self.layout.fragments[fragment], self._tensors[fragment], strict=True):
            out[spec.span].view(spec.shape).copy_(tensor.detach())
        return out

    def scatter(self, fragment: int, values: Tensor) -> None:
        """Write ``values`` [n] into the live tensors, cast to their dtypes."""
        with torch.no_grad():
            for spec, tensor in zip(self.layout.fragments[fragment], self._tensors[fragment], strict=True):
                tensor.copy_(values[spec.span].view(spec.shape))


def with_moments(layout: Layout) -> Layout:
    """The layout of one fragment with AdamW's moments as two more, in the order of `MOMENTS`."""
    (specs,) = layout.fragments
    moments = tuple(
        tuple(dataclasses.replace(spec, name=f"{which}/{spec.name}") for spec in specs) for which in MOMENTS
    )
    return dataclasses.replace(layout, fragments=(specs, *moments))


def _moments(name: str, parameter: Parameter, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of one parameter, made (as zeros) if it has taken no step yet."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        raise LayoutError(
            f"moments_every averages the moments of AdamW, but the inner optimizer is"
            f" {type(optimizer).__name__}"
        )
    owned = {id(each) for group in optimizer.param_groups for each in group["params"]}
    if id(parameter) not in owned:
        raise LayoutError(f"parameter {name} is shared but not among those that the inner optimizer moves")
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros(())
        for which in MOMENTS:
            state[which] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return {which: state[which] for which in MOMENTS}


def _matching(spec: TensorSpec, tensors: dict[str, Tensor] | dict[str, Parameter]) -> Tensor:
    tensor = tensors.get(spec.name)
    if tensor is None or tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
        raise LayoutError(
            f"the model has no parameter {spec.name} of {spec.describe()}: the layout is another model's"
        )
    return tensor
