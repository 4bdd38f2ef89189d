"""Matrices whose rows are encoded each by itself: `fp32`, `bf16`, `int8`, `int4`, `int4_rotated`.

Owns how blocks lie in a row, rounding to nearest or by chance, and the rotation before rounding; the
arithmetic of whole vectors is that of `codecs` and its kernels, with the same bytes wherever blocks fill the
rows. The same matrix and draws give the same bytes on every machine, and the same bytes the same bits: all of
it is elementwise. What is not finite is neither encoded nor decoded. Knows nothing of stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diloco.compression.codecs import codec
from diloco.compression.codecs.base import (
    LARGEST,
    LARGEST_SURE,
    SCALE_MIN,
    refuse,
    require_scales,
    require_size,
    scales_valid,
)
from diloco.compression.codecs.blocks import BLOCK, INT4_MAX, INT8_MAX, NIBBLE_BLOCK
from diloco.compression.deterministic import seeded_bits
from diloco.compression.vectors import Buffer, bytes_of, fill, items_of, slice_of

CPU = torch.device("cpu")


class RowCodec(Protocol):
    """A wire format for fp32 matrices on any device; payloads are on the CPU. An instance keeps scratch
    memory: one thread at a time uses it."""

    def size_bytes(self, rows: int, columns: int) -> int:
        """Exact size of a matrix [rows, columns]."""

    def encode(self, x: Tensor, draws: Sequence[int] | None = None) -> Buffer:
        """The bytes of ``x`` [rows, columns], rounded to nearest. With ``draws``, non-negative integers that
        seed it, formats with blocks round up or down by chance, so that the mean over seeds is ``x``. May
        hand out the tensor's own memory. Raises `NonFinite`."""

    def decode(self, payload: Buffer, rows: int, columns: int, device: torch.device = CPU) -> Tensor:
        """The matrix [rows, columns], in memory of its own. Raises `NonFinite` and `WrongSize`."""


def row_codec(name: str) -> RowCodec:
    """A new codec by its name, one of `ROW_CODECS`. Raises ValueError that lists them."""
    if name not in ROW_CODECS:
        raise ValueError(f"codec {name!r} is unknown for rows: choose one of {', '.join(ROW_CODECS)}")
    return ROW_CODECS[name]()


class PlainRows:
    """One number for each value, rounded to nearest: `fp32` and `bf16`. 4 or 2 bytes each."""

    def __init__(self, name: str) -> None:
        self._codec = codec(name)

    def size_bytes(self, rows: int, columns: int) -> int:
        """See `RowCodec`."""
        return self._codec.size_bytes(rows * columns)

    def encode(self, x: Tensor, draws: Sequence[int] | None = None) -> Buffer:
        """See `RowCodec`."""
        return self._codec.encode(x.detach().reshape(-1))

    def decode(self, payload: Buffer, rows: int, columns: int, device: torch.device = CPU) -> Tensor:
        """See `RowCodec`."""
        out = torch.empty(rows * columns, device=device)
        return self._codec.decode(payload, len(out), out).view(rows, columns)


class BlockRows:
    """A few bits for each value and one scale for each block of a row: `int8`, `int4`, `int4_rotated`.

    A block has 256 values with 8 bits, 64 with 4, or all of a row that is shorter. With 4 bits a short row's
    block is a power of two, and rows are filled up with zeros to whole blocks, which travel. Layout: the
    scales of all blocks, row by row (fp32; bfloat16 with 4 bits), then the values (int8; with 4 bits value i
    of a block in the low and i + block / 2 in the high half of a byte). ``rotated`` blocks are multiplied by
    fixed signs and a Hadamard matrix before rounding, and back after, so that a large value of a block is
    shared by all of them (TAH-Quant, arXiv 2506.01352)."""

    def __init__(self, bits: int, *, rotated: bool = False) -> None:
        self._bits, self._rotated = bits, rotated
        self._codec = codec("int8" if bits == 8 else "int4")
        self._scale = torch.float32 if bits == 8 else torch.bfloat16

    def size_bytes(self, rows: int, columns: int) -> int:
        """See `RowCodec`."""
        _, per_row = self._blocks(columns)
        return rows * (per_row * self._scale.itemsize + self._row_bytes(columns))

    def encode(self, x: Tensor, draws: Sequence[int] | None = None) -> Buffer:
        """See `RowCodec`."""
        x = x.detach()
        rows, columns = x.shape
        block, per_row = self._blocks(columns)
        if draws is None and self._fills_rows(columns):
            return self._codec.encode(self._in_blocks(x, block, per_row).reshape(-1))
        packed = torch.empty(self.size_bytes(rows, columns), dtype=torch.uint8, device=x.device)
        cut = rows * per_row * self._scale.itemsize
        scales, values = packed[:cut].view(self._scale), packed[cut:].view(torch.int8).view(rows, -1)
        noise = None if draws is None else _noise(draws, rows * per_row * block, x.device)
        for span, blocks in self._spans(x, per_row):
            wide = self._in_blocks(x[span], block, per_row)
            wide = self._scaled(wide, scales[blocks], by_chance=noise is not None)
            if noise is None:
                wide.round_()
            else:
                wide.add_(noise(blocks.start * block, wide.numel()).view_as(wide)).floor_()
            top = INT8_MAX if self._bits == 8 else INT4_MAX
            values[span] = self._pack(wide.clamp_(-top, top).to(torch.int8), columns, per_row)
        if not scales_valid(scales):
            raise refuse(x.reshape(-1), LARGEST if self._bits == 8 else LARGEST_SURE)
        return bytes_of(packed)

    def decode(self, payload: Buffer, rows: int, columns: int, device: torch.device = CPU) -> Tensor:
        """See `RowCodec`."""
        require_size(payload, self.size_bytes(rows, columns))
        block, per_row = self._blocks(columns)
        wide = torch.empty(rows * per_row, block, device=device)
        if self._fills_rows(columns):
            self._codec.decode(payload, wide.numel(), wide.view(-1))
        else:
            view, cut = memoryview(payload).cast("B"), rows * per_row * self._scale.itemsize
            scales = torch.empty(rows * per_row, dtype=self._scale)
            fill(scales, view[:cut])
            require_scales(scales)
            values = items_of(view[cut:], torch.int8).to(device).view(rows, -1)
            self._unpack(values, columns, wide)
            wide.mul_(scales.float().to(device)[:, None])
        if self._rotated:
            wide = rotate_back(wide)
        return wide.view(rows, -1)[:, :columns].contiguous()

    # -- inside -------------------------------------------------------------------------------

    def _blocks(self, columns: int) -> tuple[int, int]:
        """Values of a block, and blocks of a row."""
        if self._bits == 8:
            block = min(BLOCK, columns)
        else:
            block = min(NIBBLE_BLOCK, max(2, 1 << (columns - 1).bit_length()))
        return block, -(-columns // block)

    def _row_bytes(self, columns: int) -> int:
        block, per_row = self._blocks(columns)
        return columns if self._bits == 8 else per_row * block // 2

    def _fills_rows(self, columns: int) -> bool:
        """Whether the vector codec's blocks are these, one after the other."""
        return columns % BLOCK == 0 if self._bits == 8 else self._blocks(columns)[0] == NIBBLE_BLOCK

    def _in_blocks(self, x: Tensor, block: int, per_row: int) -> Tensor:
        """Rows [r, columns] as blocks [r * per_row, block], as they are rounded."""
        if missing := block * per_row - x.shape[1]:
            x = torch.nn.functional.pad(x, (0, missing))
        x = x.reshape(-1, block)
        return rotate(x) if self._rotated else x

    @staticmethod
    def _spans(x: Tensor, per_row: int) -> Iterator[tuple[slice, slice]]:
        """Pairs (rows, their blocks) that suit the device's cache."""
        rows, step = len(x), max(1, slice_of(x) // x.shape[1])
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield slice(start, stop), slice(start * per_row, stop * per_row)

    def _scaled(self, wide: Tensor, scales: Tensor, *, by_chance: bool) -> Tensor:
        """Write the scales [b] of blocks [b, block], and give the blocks divided by them. Scales that are
        rounded are rounded up where a value beyond the largest code would no longer be right in the mean."""
        least, top = torch.aminmax(wide, dim=1)
        exact = torch.maximum(top, least.neg_()).div_(INT8_MAX if self._bits == 8 else INT4_MAX)
        scales.copy_(exact)
        if by_chance and self._scale is torch.bfloat16:
            scales.view(torch.int16).add_((scales.float() < exact).to(torch.int16))
        scales.masked_fill_(scales <= SCALE_MIN, 0.0)
        inverse = scales.float().clamp(min=SCALE_MIN).reciprocal_().masked_fill_(scales == 0.0, 0.0)
        return wide * inverse[:, None]

    def _pack(self, codes: Tensor, columns: int, per_row: int) -> Tensor:
        """Codes [r * per_row, block] int8 as the bytes of rows [r, ...]."""
        if self._bits == 8:
            return codes.view(-1, per_row * codes.shape[1])[:, :columns]
        half = codes.shape[1] // 2
        packed = (codes[:, half:] << 4).bitwise_or_(codes[:, :half].bitwise_and(15))
        return packed.view(-1, per_row * half)

    def _unpack(self, values: Tensor, columns: int, wide: Tensor) -> None:
        """Write the codes in ``values`` [r, ...] to blocks [r * per_row, block]."""
        if self._bits == 8:
            rows = wide.view(len(values), -1)
            rows[:, :columns] = values
            rows[:, columns:] = 0.0
            return
        half = wide.shape[1] // 2
        codes = values.reshape(-1, half)
        wide[:, :half] = (codes << 4) >> 4
        wide[:, half:] = codes >> 4


ROW_CODECS: dict[str, Callable[[], RowCodec]] = {
    "fp32": lambda: PlainRows("fp32"),
    "bf16": lambda: PlainRows("bf16"),
    "int8": lambda: BlockRows(8),
    "int4": lambda: BlockRows(4),
    "int4_rotated": lambda: BlockRows(4, rotated=True),
}
"""What there is, by name."""


def rotate(x: Tensor) -> Tensor:
    """Blocks [b, n], n a power of two, times fixed signs and the orthonormal Hadamard matrix."""
    return _hadamard((x * _signs(x.shape[1]).to(x.device)).t().contiguous())


def rotate_back(x: Tensor) -> Tensor:
    """The inverse of `rotate`, but for rounding."""
    return _hadamard(x.t().contiguous()).mul_(_signs(x.shape[1]).to(x.device))


def _hadamard(y: Tensor) -> Tensor:
    """Blocks [b, n] that are Sylvester's matrix times the columns of ``y`` [n, b], by sums and differences,
    each rounded by itself. In columns neighbours in memory are treated alike. Overwrites ``y``."""
    n, count = y.shape
    other, half = torch.empty_like(y), n // 2
    while half:
        pairs, out = y.view(-1, 2, half, count), other.view(-1, 2, half, count)
        torch.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        y, other, half = other, y, half // 2
    return y.t().contiguous()


@cache
def _signs(n: int) -> Tensor:
    """1 or -1 [n] over the square root of n, as chance has it but always the same: without them a block of
    equal values, which have a mean, would become one large value. Shared: never write to it."""
    bits = seeded_bits([n], n) >> np.uint64(63)
    return torch.from_numpy(bits.astype(np.float32)).mul_(-2.0).add_(1.0).mul_(1 / math.sqrt(n))


def _noise(draws: Sequence[int], n: int, device: torch.device) -> Callable[[int, int], Tensor]:
    """What gives ``count`` of ``n`` numbers from a place on, uniform in (0, 1): odd multiples of 2^-17, so
    exact. 16 random bits each."""
    bits = seeded_bits(draws, -(-n // 4)).view(np.int16)

    def taken(start: int, count: int) -> Tensor:
        here = torch.from_numpy(bits[start : start + count]).to(device, torch.float32)
        return here.mul_(2.0**-16).add_(0.5 + 2.0**-17)

    return taken
