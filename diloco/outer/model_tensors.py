"""The live tensors that a swarm shares: reading them as flat fp32 vectors, and writing them back.

Owns the way between a layout's vectors and the tensors of a model (and, for methods that average them, of its
inner optimizer), and that of frozen parameters to bytes and back. Holds no copies and decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from diloco.compression import kernels
from diloco.compression.vectors import VectorDevice, bytes_of, spans, squared_norm
from diloco.errors import LayoutError
from diloco.outer.inner_state import Optimizers, listed_optimizers
from diloco.outer.layout import Layout, TensorSpec
from diloco.outer.live_buffers import LiveBuffers, as_stored
from diloco.outer.plain_names import named_parameters
from transport.digests import digest_of

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, as torch names it."""
Places = Sequence[tuple[slice, Tensor]]
"""Where live tensors lie in a fragment's vector."""


class WriteWatcher(Protocol):
    """Who keeps something beside live tensors that has to go with them."""

    def source(self, tensor: Tensor) -> Tensor:
        """What has the value of a live tensor to the most bits: itself, or a master that it was rounded
        from."""
        ...

    def before_write(self, places: Places) -> None:
        """These tensors are about to be written."""

    def written(self, places: Places, values: Tensor) -> None:
        """They are written with ``values`` [n] fp32."""


class ModelTensors:
    """The tensors of one model, by the fragments of ``layout``. Vectors are fp32 on the CPU."""

    def __init__(
        self,
        layout: Layout,
        tensors: dict[str, Tensor],
        frozen: list[Parameter],
        buffers: LiveBuffers | None = None,
    ) -> None:
        self._places = [[(s.span, _matching(s, tensors)) for s in specs] for specs in layout.fragments]
        """By fragment: where each tensor lies in the vector, and the tensor. Those of buffers are looked
        up."""
        self._buffers = buffers
        self.layout = layout if buffers is None else buffers.added_to(layout)
        self.constants: tuple[str, ...] = ()
        """Buffers that are not averaged for the numbers that they hold."""
        self._frozen = frozen
        self._tensors = tensors
        self.frozen_digests = FrozenDigests(layout, frozen)
        self.has_other_frozen = False
        """Frozen parameters are not those that the model had by itself: others of the run were loaded."""
        self.watcher: WriteWatcher | None = None
        """Told of every `scatter`, and asked for masters."""
        tensors_held = (tensor for held in self._places for _, tensor in held)
        self.device = VectorDevice.beside(tensors_held, len(self.layout.fragments))
        """Where vectors that meet these tensors are best kept."""

    @classmethod
    def of(
        cls, layout: Layout, model: nn.Module, optimizers: Optimizers = None, *, buffers: bool = False
    ) -> Self:
        """The parameters of ``model``; with ``optimizers``, AdamW's two moments of them as two fragments
        more, for DES-LOC (arXiv 2505.22549); with ``buffers`` those of `LiveBuffers` as one more, if there
        are such. Raises `LayoutError` if the tensors are not those of the layout, or an optimizer is not
        AdamW."""
        parameters = dict(named_parameters(model, remove_duplicate=False))
        frozen = [_matching(spec, parameters) for spec in layout.frozen]
        tensors: dict[str, Tensor] = dict(parameters)
        if every := listed_optimizers(optimizers):
            (specs,) = layout.fragments
            moments = {spec.name: _moments(spec.name, parameters[spec.name], every) for spec in specs}
            for which in MOMENTS:
                tensors |= {f"{which}/{name}": found[which] for name, found in moments.items()}
            layout = with_moments(layout)
        found = LiveBuffers(model) if buffers else None
        parameters_only = [each for each in frozen if isinstance(each, Parameter)]
        made = cls(layout, tensors, parameters_only, found if found and found.specs else None)
        made.constants = found.constants if found else ()
        return made

    def places(self, fragment: int) -> Places:
        """Where the live tensors of a fragment lie in its vector, and those tensors."""
        if self._buffers is not None and fragment == len(self._places):
            return self._buffers.places()
        return self._places[fragment]

    def buffers(self) -> list[Tensor]:
        """Those that are averaged, as they are now."""
        return [] if self._buffers is None else [each for _, each in self._buffers.places()]

    def exchanged(self) -> list[Tensor]:
        """What of the model itself is exchanged: trainable parameters, and buffers. Frozen ones are the bulk
        of a model with adapters, and nobody writes them."""
        trained = [each for held in self._places for _, each in held if isinstance(each, Parameter)]
        return [*trained, *self.buffers()]

    def changed_buffers(self) -> list[str]:
        """See `LiveBuffers.changed`."""
        return [] if self._buffers is None else self._buffers.changed()

    def remedy(self, refusal: str) -> str:
        """What is to be said further to who is refused for other tensors, if buffers may be why: which of
        them are averaged hangs on what they hold when a model is attached."""
        rule = "a buffer that holds an infinity or a number beyond 1e15 counts as a constant"
        if self.constants:
            what = f"{rule}, here {', '.join(self.constants)}"
        elif self._buffers is not None and f"(fragment {len(self._places)})" in refusal:
            what = f"{rule}, and may have held one where the run began"
        else:
            return ""
        return (
            f'{what}: attach the model with such numbers as the first had, or set [method] buffers = "local"'
        )

    def gather(self, fragment: int, out: Tensor) -> Tensor:
        """The live values of a fragment into ``out`` [n] fp32."""
        for span, tensor in self.places(fragment):
            out[span].view(tensor.shape).copy_(self._source(tensor))
        return out

    def _source(self, tensor: Tensor) -> Tensor:
        if self.watcher is None or tensor.dtype not in (torch.bfloat16, torch.float16):
            return tensor.detach()
        return self.watcher.source(tensor)

    def subtract_from(self, anchor: Tensor, fragment: int, out: Tensor) -> float:
        """``anchor`` [n] - the live values of a fragment, into ``out`` [n] fp32. Returns its squared norm,
        which is not finite if and only if one of its values is not."""
        square = 0.0
        for span, tensor in self.places(fragment):
            local, target = self._source(tensor), out[span]
            if local.dtype != torch.float32 or local.device.type != "cpu" or not local.is_contiguous():
                local = target.view(tensor.shape).copy_(local)
            square += subtract(anchor[span], local.view(-1), target)
        return square

    def scatter(self, fragment: int, values: Tensor) -> None:
        """Write ``values`` [n] into the live tensors, cast to their dtypes: training goes on from there."""
        if self.watcher is not None:
            self.watcher.before_write(self.places(fragment))
        self.show(fragment, values)
        if self.watcher is not None:
            self.watcher.written(self.places(fragment), values)

    def show(self, fragment: int, values: Tensor) -> None:
        """The same for a while, between two inner steps: nobody trains on from there."""
        with torch.no_grad():
            for span, tensor in self.places(fragment):
                tensor.copy_(as_stored(values[span].view(tensor.shape), tensor))

    def frozen_bytes(self, fragment: int) -> list[memoryview]:
        """The bytes of the frozen parameters, which belong to the last fragment's state and to no other's:
        each one's own memory if it is contiguous on the CPU, else a copy."""
        return [bytes_of(parameter) for parameter in self._frozen_in(fragment)]

    def frozen_size(self, fragment: int) -> int:
        """How many bytes those are."""
        return sum(parameter.nbytes for parameter in self._frozen_in(fragment))

    def load_frozen(self, fragment: int, data: memoryview) -> None:
        """Write bytes that `frozen_bytes` gave into the frozen parameters."""
        for parameter in self._frozen_in(fragment):
            piece, data = data[: parameter.nbytes], data[parameter.nbytes :]
            if np.array_equal(np.asarray(bytes_of(parameter)), np.asarray(piece)):
                continue
            values = torch.empty(parameter.shape, dtype=parameter.dtype)
            bytes_of(values)[:] = piece
            with torch.no_grad():
                parameter.copy_(values)
            self.has_other_frozen = True
            self.frozen_digests = FrozenDigests(self.layout, self._frozen)

    def digest_of(self, name: str) -> str:
        """Of the bytes of one parameter as they are now."""
        return digest_of(bytes_of(self._tensors[name])).hex()

    def _frozen_in(self, fragment: int) -> list[Parameter]:
        return self._frozen if fragment == len(self.layout.fragments) - 1 else []


class FrozenDigests:
    """The digest of each frozen parameter, made once, by the first thread that asks."""

    def __init__(self, layout: Layout, frozen: list[Parameter]) -> None:
        self._named = [(spec.name, each) for spec, each in zip(layout.frozen, frozen, strict=True)]
        self._found: dict[str, str] | None = None

    def by_name(self) -> Mapping[str, str]:
        """In hex."""
        if self._found is None:
            self._found = {name: digest_of(bytes_of(each)).hex() for name, each in self._named}
        return self._found


def with_moments(layout: Layout) -> Layout:
    """The layout of one fragment with AdamW's moments as two more, in the order of `MOMENTS`."""
    (specs,) = layout.fragments
    moments = tuple(
        tuple(dataclasses.replace(spec, name=f"{which}/{spec.name}") for spec in specs) for which in MOMENTS
    )
    return dataclasses.replace(layout, fragments=(specs, *moments))


def subtract(a: Tensor, b: Tensor, out: Tensor) -> float:
    """out = a - b, all [n], where ``out`` may be one of them. Returns its squared norm, which is not finite
    if and only if a value of it is not."""
    square = kernels.subtract(a, b, out)
    if square is not None:
        return square
    return sum(squared_norm(torch.sub(a[span], b[span], out=out[span])) for span in spans(out))


def _moments(
    name: str, parameter: Parameter, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """The moments of one parameter, made (as zeros) if it has taken no step yet."""
    for each in optimizers:
        if not isinstance(each, (torch.optim.Adam, torch.optim.AdamW)):
            raise LayoutError(
                f"moments_every averages the moments of AdamW, but the inner optimizer is"
                f" {type(each).__name__}"
            )
    owners = [
        each
        for each in optimizers
        if any(parameter is owned for group in each.param_groups for owned in group["params"])
    ]
    if not owners:
        raise LayoutError(f"parameter {name} is shared but not among those that the inner optimizer moves")
    state = owners[0].state[parameter]
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
