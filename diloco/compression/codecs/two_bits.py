"""Two bits per value: `int2` with bins that follow the data, and `int2_linear` with bins that do not, to
compare.

At two bits the codebook decides: bins over the largest value waste most of their levels (MuLoCo, arXiv
2505.23725). Magnitudes above 3.3e35 (`int2`, which adds 1024 of them) or 2.65e36 count as non-finite, and a
level that is or would become denormal is 0.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from diloco.compression.codecs.base import (
    SCALE_MAX,
    SCALE_MIN,
    AddsDecoded,
    blocked,
    output,
    refuse,
    require_scales,
    require_size,
    require_vector,
)
from diloco.compression.deterministic import pairwise_sum
from diloco.compression.vectors import (
    Buffer,
    Scratch,
    all_finite,
    bytes_of,
    count_non_finite,
    items_of,
    slice_of,
)
from diloco.errors import NonFinite

BLOCK = 1024
"""Elements that share a codebook."""
_LEVELS = 4
_LEAST = 4 * SCALE_MIN
"""Smallest number of a codebook: a quarter of it is not denormal."""


class _TwoBits(AddsDecoded):
    """Codes of two bits, and per block of 1024 so many bfloat16 numbers from which its four levels follow.

    Layout: the numbers of all blocks, then ceil(n / 4) bytes of codes, four in a byte, the first in the
    lowest bits.
    """

    shares_memory: ClassVar[bool] = False
    numbers: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return 2 * self.numbers * -(-n // BLOCK) + -(-n // 4)

    def encode(self, x: Tensor) -> Buffer:
        require_vector(x)
        n, x = len(x), x.detach()
        if not all_finite(x):
            raise refuse(x)
        packed = torch.empty(self.size_bytes(n), dtype=torch.uint8, device=x.device)
        cut = 2 * self.numbers * -(-n // BLOCK)
        tables = packed[:cut].view(torch.bfloat16).view(-(-n // BLOCK), self.numbers)
        for rows, blocks in blocked(n, BLOCK, slice_of(x)):
            shape = (blocks.stop - blocks.start, -1)
            codes = self._quantize(x[rows].view(shape), tables[blocks])
            at = slice(cut + rows.start // 4, cut + -(-rows.stop // 4))
            packed[at] = _pack(codes.flatten())
        if not _sound(tables):
            raise refuse(x)
        tables.masked_fill_(tables.abs() < _LEAST, 0.0)
        return bytes_of(packed)

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        out = output(out, n)
        require_size(payload, self.size_bytes(n))
        cut, packed = 2 * self.numbers * -(-n // BLOCK), items_of(payload, torch.uint8)
        tables = torch.empty(cut // 2, dtype=torch.bfloat16)
        tables.view(torch.uint8).copy_(packed[:cut])
        found = tables.float()
        if not _sound(found):
            raise NonFinite(count_non_finite(found) or 1, "levels are not finite or too large")
        levels = self._levels(found.view(-(-n // BLOCK), self.numbers)).to(out.device)
        for rows, blocks in blocked(n, BLOCK, slice_of(out)):
            count = rows.stop - rows.start
            bytes_ = packed[cut + rows.start // 4 : cut + -(-rows.stop // 4)].to(out.device)
            codes = _unpack(bytes_)[:count].view(blocks.stop - blocks.start, -1)
            torch.gather(levels[blocks], 1, codes, out=out[rows].view(codes.shape))
        return out

    def _quantize(self, x: Tensor, table: Tensor) -> Tensor:
        """Codes uint8 of blocks [b, k]; fills their ``table`` [b, numbers]."""
        raise NotImplementedError

    def _work(self, count: int, x: Tensor) -> tuple[Tensor, ...]:
        """So many scratch tensors like ``x``. They hold comparisons too, as 1 or 0: on a CPU that is much
        faster than booleans, and so is memory that was written before."""
        return self._scratch.of(count * x.numel(), x.device).view(count, *x.shape).unbind()

    def _levels(self, tables: Tensor) -> Tensor:
        """Levels [b, 4] that tables [b, numbers] stand for."""
        raise NotImplementedError


class Int2(_TwoBits):
    """Statistical bins, as in SparseLoCo (arXiv 2508.15706): four of equal width over six standard deviations
    around a block's mean, each decoded as the mean of the values in it. 8 ceil(n / 1024) + ceil(n / 4)
    bytes."""

    name: ClassVar[str] = "int2"
    numbers: ClassVar[int] = _LEVELS

    def _quantize(self, x: Tensor, table: Tensor) -> Tensor:
        # Sums in an order of their own, so that every device finds the same bins.
        length = x.shape[1]
        centred, codes, inside, above = self._work(4, x)
        torch.sub(x, pairwise_sum(x)[:, None] / length, out=centred)
        squares = torch.mul(centred, centred, out=above)
        width = (pairwise_sum(squares)[:, None] / length).sqrt_().mul_(1.5)
        codes.fill_(0.0)
        inside.fill_(1.0)
        edges: list[Tensor | float] = [-width, 0.0, width, math.inf]
        for level, edge in enumerate(edges):
            codes.add_(torch.gt(centred, edge, out=above))
            inside.sub_(above)
            count = inside.sum(1)  # exact in any order
            table[:, level] = pairwise_sum(inside.mul_(x)).div_(count.clamp_(min=1))
            inside, above = above, inside
        return codes.to(torch.uint8)

    def _levels(self, tables: Tensor) -> Tensor:
        return tables


class Int2Linear(_TwoBits):
    """Four levels at -3/4, -1/4, 1/4 and 3/4 of a block's largest magnitude. 2 ceil(n / 1024) + ceil(n / 4)
    bytes."""

    name: ClassVar[str] = "int2_linear"
    numbers: ClassVar[int] = 1

    def _quantize(self, x: Tensor, table: Tensor) -> Tensor:
        largest = x.abs().amax(1, keepdim=True)
        table.copy_(largest)
        codes, above = self._work(2, x)
        torch.gt(x, 0.0, out=codes)
        codes.add_(torch.gt(x, largest * 0.5, out=above))
        codes.add_(torch.gt(x, largest * -0.5, out=above))
        return codes.to(torch.uint8)

    def _levels(self, tables: Tensor) -> Tensor:
        require_scales(tables.flatten())
        return torch.cat([tables * share for share in (-0.75, -0.25, 0.25, 0.75)], dim=1)


def _sound(numbers: Tensor) -> bool:
    """Whether the numbers of codebooks are finite and not too large."""
    return not numbers.numel() or float(numbers.abs().max()) <= SCALE_MAX


def _pack(codes: Tensor) -> Tensor:
    """Four codes uint8 [n] to a byte."""
    # In fours as one integer, whose lowest byte is kept in the end: first bytes 0 and 2 take what is above.
    fours = torch.nn.functional.pad(codes, (0, -len(codes) % 4)).view(torch.int32)
    fours = fours | fours >> 6
    return (fours | fours >> 12).to(torch.uint8)


def _unpack(packed: Tensor) -> Tensor:
    """Codes int64 [4 * bytes], as indices."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=packed.device)
    return (packed[:, None] >> shifts & 3).flatten().long()
