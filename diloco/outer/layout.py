"""Layout: which parameters of a model are shared, in which order, and in which fragments.

Owns the order of tensors in the flat vectors that travel, and the manifest that two peers compare
before they exchange anything (X6). Holds no values. Trainable parameters are exchanged in rounds, each
storage once, so that tied weights count once. Frozen parameters are not exchanged, but belong to the state
that a joiner receives. Buffers are listed by `live_buffers`, where they are averaged; else they stay local.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import nn
from torch.nn.parameter import Parameter, is_lazy

from diloco.errors import LayoutError
from diloco.outer.fragments import partition
from diloco.outer.plain_names import named_parameters
from diloco.outer.shards import is_sharded
from diloco.outer.snapshot import StateView

TRAINABLE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter: where it lies in its fragment's vector of fp32 elements. A frozen parameter lies
    nowhere: its ``start`` is -1."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    num_elements: int

    @property
    def span(self) -> slice:
        """Elements of the fragment's vector."""
        return slice(self.start, self.start + self.num_elements)

    def describe(self) -> str:
        """Shape and dtype, as text: ``128x256 float32``."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{shape} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True, slots=True)
class LayoutDigests:
    """What two peers compare: equal digests mean that flat vectors mean the same on both."""

    text: str
    """One line per tensor: fragment, name, shape, dtype."""
    names_sha256: bytes
    """Over the names in order, with their fragments."""
    text_name: bytes
    """Of the whole text, by which members hand it out: who compares names first learns from this whether
    shapes and dtypes differ."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The shared tensors of a model, in the order in which its modules registered them."""

    fragments: tuple[tuple[TensorSpec, ...], ...]
    """Trainable tensors, as `fragments.partition` groups them; no tensor is split."""
    frozen: tuple[TensorSpec, ...]
    """Parameters with requires_grad False: part of the last fragment's state only."""

    @classmethod
    def of(
        cls, model: nn.Module, num_fragments: int = 1, pattern: str = "balanced", modules: Sequence[str] = ()
    ) -> Layout:
        """The layout of ``model`` as it is now: parameters that are frozen later stay in. Fragments are those
        of `fragments.partition`. Raises `LayoutError` for parameters that cannot be shared or too few for
        that many fragments."""
        trainable, frozen = _distinct_parameters(model)
        if not trainable:
            raise LayoutError("the model has no trainable parameter: requires_grad is False for all of them")
        sizes = [(name, parameter.numel()) for name, parameter in trainable]
        groups = partition(sizes, num_fragments, pattern, modules)
        return cls(
            fragments=tuple(_fragment([trainable[i] for i in group]) for group in groups),
            frozen=tuple(_spec(name, parameter, -1) for name, parameter in frozen),
        )

    def num_elements(self, fragment: int) -> int:
        """Length of the fragment's vector."""
        last = self.fragments[fragment][-1]
        return last.start + last.num_elements

    def manifest(self) -> LayoutDigests:
        """Text and digests of this layout."""
        rows = list(self._rows())
        names = "\n".join(f"{where} {spec.name}" for where, spec in rows)
        text = "".join(f"{where} {spec.name} {spec.describe()}\n" for where, spec in rows)
        text_name = StateView(0, [memoryview(text.encode())]).digest()
        return LayoutDigests(text, hashlib.sha256(names.encode()).digest(), text_name)

    def _rows(self) -> Iterator[tuple[str, TensorSpec]]:
        for index, fragment in enumerate(self.fragments):
            yield from ((str(index), spec) for spec in fragment)
        yield from (("frozen", spec) for spec in self.frozen)


def _fragment(named: list[tuple[str, Parameter]]) -> tuple[TensorSpec, ...]:
    starts = accumulate((parameter.numel() for _, parameter in named), initial=0)
    return tuple(
        _spec(name, parameter, start) for (name, parameter), start in zip(named, starts, strict=False)
    )


def _spec(name: str, parameter: Parameter, start: int) -> TensorSpec:
    return TensorSpec(name, tuple(parameter.shape), parameter.dtype, start, parameter.numel())


_Named = list[tuple[str, Parameter]]
_Extent = tuple[str, int, int]


def _distinct_parameters(model: nn.Module) -> tuple[_Named, _Named]:
    """Trainable and frozen parameters, each storage once: tied to a trainable one is trainable."""
    named = list(named_parameters(model))
    for name, parameter in named:
        _require_shareable(name, parameter)
    seen: dict[_Extent, str] = {}
    trainable = [each for each in named if each[1].requires_grad and _is_new(*each, seen)]
    frozen = [each for each in named if not each[1].requires_grad and _is_new(*each, seen)]
    _require_disjoint(seen)
    return trainable, frozen


def _is_new(name: str, parameter: Parameter, seen: dict[_Extent, str]) -> bool:
    if parameter.numel() == 0 or is_sharded(parameter):  # of shards the parameter itself is what is tied
        return True
    return seen.setdefault(_extent(parameter), name) == name


def _extent(parameter: Parameter) -> _Extent:
    """Device, and first and last byte address, of a parameter's elements."""
    reach = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    start = parameter.data_ptr()
    return str(parameter.device), start, start + (reach + 1) * parameter.element_size()


def _require_disjoint(extents: dict[_Extent, str]) -> None:
    ordered = sorted(extents.items())
    for ((device, _, end), name), ((other_device, start, _), other) in pairwise(ordered):
        if device == other_device and start < end:
            raise LayoutError(
                f"parameters {name} and {other} share part of their memory: share all of it or none"
            )


def _require_shareable(name: str, parameter: Parameter) -> None:
    if is_lazy(parameter):
        raise LayoutError(f"parameter {name} has no shape yet: run the model once before you attach it")
    if parameter.is_meta:
        raise LayoutError(
            f"parameter {name} is on the meta device: give it memory before you attach the model"
        )
    if any(
        stride == 0 and size > 1 for size, stride in zip(parameter.shape, parameter.stride(), strict=True)
    ):
        raise LayoutError(
            f"parameter {name} shows one value as many (it was made by expand): give it memory by .clone()"
        )
    if parameter.requires_grad and parameter.dtype not in TRAINABLE_DTYPES:
        raise LayoutError(
            f"parameter {name} is {parameter.dtype}: trainable ones must be float32, bfloat16 or float16"
        )
