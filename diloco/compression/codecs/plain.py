"""fp32 as it is, and rounded to half the bytes: `fp32`, `fp16`, `bf16`."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from diloco.compression.codecs.base import (
    Codec,
    add_weighted,
    output,
    require_finite,
    require_size,
    require_vector,
)
from diloco.compression.kernels import Kernel
from diloco.compression.vectors import (
    Buffer,
    Scratch,
    all_finite,
    bytes_of,
    count_non_finite,
    items_of,
    spans,
    squared_norm,
)
from diloco.errors import NonFinite


class Fp32:
    """Four bytes per element: the values as they are. 4 n bytes."""

    name: ClassVar[str] = "fp32"
    shares_memory: ClassVar[bool] = True
    kernel: ClassVar[Kernel] = Kernel("fp32")

    def __init__(self) -> None:
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return 4 * n

    def for_mean(self, num_parts: int) -> Codec:
        return self

    def encode(self, x: Tensor) -> Buffer:
        require_vector(x)
        if not self.kernel.encodes_in_place(x):
            require_finite(x)
        return bytes_of(x)

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        require_size(payload, self.size_bytes(n))
        out, values = output(out, n), items_of(payload, torch.float32)
        # An owner decodes the result that it has just made in this very place.
        in_place = values.data_ptr() == out.data_ptr()
        if not in_place and self.kernel.decode(payload, out):
            return out
        for span in spans(out):
            if not in_place:
                out[span].copy_(values[span])
            require_finite(out[span])
        return out

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> float:
        require_size(payload, self.size_bytes(len(total)))
        if (found := self.kernel.add(total, payload, weight, first)) is not None:
            return found
        values, square = items_of(payload, torch.float32), 0.0
        for span in spans(total):
            part = values[span].to(total.device)
            square += _finite_square(part)
            add_weighted(total[span], part, weight, self._scratch, first)
        return square


def _finite_square(x: Tensor) -> float:
    """The squared norm of ``x``: one pass that finds what is not finite too. Raises `NonFinite`."""
    square = squared_norm(x)
    if not math.isfinite(square):
        require_finite(x)
    return square


class _Half:
    """Two bytes per element: fp32 rounded to the nearest, ties to even. 2 n bytes."""

    shares_memory: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype]
    kernel: ClassVar[Kernel]

    def __init__(self) -> None:
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return 2 * n

    def encode(self, x: Tensor) -> Buffer:
        require_vector(x)
        if (payload := self.kernel.encode(x, self.size_bytes(len(x)))) is not None:
            return payload
        halves = torch.empty(len(x), dtype=self.dtype, device=x.device)
        for span in spans(x):
            halves[span].copy_(x.detach()[span])
            # After rounding: the largest fp32 values round to infinity.
            if not all_finite(halves[span]):
                bad = count_non_finite(x.detach().to(self.dtype))
                raise NonFinite(bad, f"values are not finite, or too large for {self.dtype}")
        return bytes_of(halves)

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        require_size(payload, self.size_bytes(n))
        out = output(out, n)
        if self.kernel.decode(payload, out):
            return out
        halves = items_of(payload, self.dtype)
        for span in spans(out):
            out[span].copy_(halves[span])
            require_finite(out[span])
        return out

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> float:
        require_size(payload, self.size_bytes(len(total)))
        if (found := self.kernel.add(total, payload, weight, first)) is not None:
            return found
        halves, square = items_of(payload, self.dtype), 0.0
        for span in spans(total):
            part = total[span] if first else self._scratch.of(span.stop - span.start, total.device)
            square += _finite_square(part.copy_(halves[span]))
            part.mul_(weight)
            if not first:
                total[span].add_(part)
        return square


class Bf16(_Half):
    """bfloat16: the range of fp32 with 8 bits of precision. 2 n bytes."""

    name: ClassVar[str] = "bf16"
    kernel: ClassVar[Kernel] = Kernel("bf16")
    dtype: ClassVar[torch.dtype] = torch.bfloat16

    def for_mean(self, num_parts: int) -> Codec:
        return self


class Fp16(_Half):
    """float16: 11 bits of precision, magnitudes up to 65504; larger ones are refused as not finite, those
    below 6e-8 become 0. 2 n bytes."""

    name: ClassVar[str] = "fp16"
    kernel: ClassVar[Kernel] = Kernel("fp16")
    dtype: ClassVar[torch.dtype] = torch.float16

    def for_mean(self, num_parts: int) -> Codec:
        return self
