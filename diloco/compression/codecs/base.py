"""What every wire format promises, and the checks that they share.

Owns the `Codec` protocol. The same bytes decode to the same bits on every machine: multiply
and add round separately, without `alpha=`, `lerp`, `addcmul` or compilation. What is not finite is never
encoded and never added (S12).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from diloco.compression.vectors import Buffer, Scratch, all_finite, count_non_finite, spans, squared_norm
from diloco.errors import CodecError, NonFinite, WrongSize

SCALE_MIN = float(torch.finfo(torch.float32).tiny)
"""Smallest scale: below it a block is sent as zeros, so that no denormal number is ever computed with,
and machines that flush those decode the same bits as machines that do not."""
SCALE_MAX = float(torch.finfo(torch.float32).max) / 128
"""Largest scale: any int8 value times it is finite."""
LARGEST = 3.37e38
"""Above this (127 * SCALE_MAX), a value counts as not finite: its block could decode to infinity."""
LARGEST_SURE = 8e34
"""Up to this every codec takes a value: the sum of 4096 of them is finite. Those that add values up, or round
scales to bfloat16, may refuse larger ones as not finite."""


class Codec(Protocol):
    """A wire format for fp32 vectors. Tensors are 1-D fp32 on any device; payloads are on the CPU. Whatever
    elements share lies within runs of 4096, so that a vector may be encoded in pieces that begin there. An
    instance keeps scratch memory: one thread at a time uses it."""

    name: ClassVar[str]
    shares_memory: ClassVar[bool]
    """True if `encode` may hand out the tensor's own memory instead of a copy, and `decode` of those bytes
    into the same memory only checks them."""

    def size_bytes(self, n: int) -> int:
        """Exact size of ``n`` encoded elements."""

    def for_mean(self, num_parts: int) -> Codec:
        """The codec for a mean of so many parts, if that needs another than they did."""

    def encode(self, x: Tensor) -> Buffer:
        """The bytes for ``x`` [n]. Raises `NonFinite`."""

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        """The ``n`` values in ``payload``, written to ``out`` [n] (by default new, on the CPU).
        Raises `NonFinite` and `WrongSize`; after `NonFinite` the content of ``out`` is unspecified."""

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> float:
        """total += weight * decoded, by operations that are each rounded to fp32, the same on every device;
        with ``first``, total = weight * decoded, whatever it was. Returns the squared norm of what was
        decoded. Raises `NonFinite` and `WrongSize`; after `NonFinite` the content of ``total`` is
        unspecified."""


class AddsDecoded:
    """`add` for codecs that decode at once into a scratch vector."""

    def __init__(self) -> None:
        self._decoded = Scratch(torch.float32)

    def for_mean(self, num_parts: int) -> Codec:
        """This codec."""
        return self  # type: ignore[return-value]

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> float:
        """See `Codec.add`."""
        part = total if first else self._decoded.of(len(total), total.device)
        square = squared_norm(self.decode(payload, len(total), part))
        part.mul_(weight)
        if not first:
            total.add_(part)
        return square


def add_weighted(total: Tensor, part: Tensor, weight: float, scratch: Scratch, first: bool) -> None:
    """total += weight * part, rounded twice; with ``first``, total = weight * part."""
    if first:
        torch.mul(part, weight, out=total)
    else:
        total.add_(torch.mul(part, weight, out=scratch.of(len(part), total.device)))


def blocked(n: int, block: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Pairs (elements, blocks) that cover ``n`` elements, each of equally long blocks and at most ``step``
    elements: the last block, if it is short, comes alone."""
    whole = n // block * block
    for start in range(0, whole, step):
        end = min(start + step, whole)
        yield slice(start, end), slice(start // block, end // block)
    if whole < n:
        yield slice(whole, n), slice(whole // block, whole // block + 1)


def output(out: Tensor | None, n: int) -> Tensor:
    """``out``, checked, or a new vector [n]."""
    if out is None:
        return torch.empty(n)
    require_vector(out)
    if len(out) != n or not out.is_contiguous():
        raise CodecError(f"the output is not a contiguous vector of {n} elements")
    return out


def scales_valid(scales: Tensor) -> bool:
    """Whether no scale is negative, not finite or too large."""
    if not len(scales):
        return True
    low, high = torch.aminmax(scales)
    return float(low) >= 0.0 and float(high) <= SCALE_MAX


def require_scales(scales: Tensor) -> None:
    """Refuse a hostile payload's scales."""
    if not scales_valid(scales):
        bad = ~((scales >= 0) & (scales <= SCALE_MAX))
        raise NonFinite(int(bad.sum()), "block scales are not finite, negative or too large")


def refuse(x: Tensor, largest: float = LARGEST_SURE) -> NonFinite:
    """The error for a vector that has values which cannot be encoded, all of them above ``largest``."""
    return NonFinite(int((~(x.abs() <= largest)).sum()), f"values are not finite (or above {largest:.3g})")


def require_finite(x: Tensor) -> None:
    for span in spans(x):
        if not all_finite(x[span]):
            raise NonFinite(count_non_finite(x), "values are not finite")


def require_vector(x: Tensor) -> None:
    if x.dim() != 1 or x.dtype != torch.float32:
        raise CodecError(f"a codec takes a vector of float32, not {x.dtype} of shape {tuple(x.shape)}")


def require_size(payload: Buffer, size: int) -> None:
    got = memoryview(payload).nbytes
    if got != size:
        raise WrongSize(f"the payload has {got} bytes instead of {size}")
