"""A few bits per value and one scale per block: `int8`, `int4`, `fp4`.

A block that would decode to denormal numbers has scale 0. Magnitudes above 3.37e38 (`int8`), 1.85e37 (`int4`)
or 2.65e36 (`fp4`) count as non-finite, since their scale would be too large.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from diloco.compression.codecs.base import (
    LARGEST,
    SCALE_MIN,
    AddsDecoded,
    Codec,
    blocked,
    output,
    refuse,
    require_scales,
    require_size,
    require_vector,
    scales_valid,
)
from diloco.compression.kernels import Kernel
from diloco.compression.vectors import Buffer, Scratch, bytes_of, fill, items_of, slice_of, squared_norm

BLOCK = 256
"""Elements that share one int8 scale."""
NIBBLE_BLOCK = 64
"""Elements that share a 4-bit scale: with a bfloat16 scale they cost 4.25 bits each, as 128 with an fp32
scale would, and the smaller block has the smaller largest value."""
_HALF = NIBBLE_BLOCK // 2
INT8_MAX = 127.0
INT4_MAX = 7.0


class Int8:
    """About one byte per element: int8 with one fp32 scale per block of 256.

    Layout: ceil(n / 256) scales, then n int8 values; 4 ceil(n / 256) + n bytes. For each block
    scale = absmax / 127 and value = round(x / scale), ties to even, so an error of at most half a
    scale.
    """

    name: ClassVar[str] = "int8"
    shares_memory: ClassVar[bool] = False
    kernel: ClassVar[Kernel] = Kernel("int8")

    def __init__(self) -> None:
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return 4 * _num_blocks(n, BLOCK) + n

    def for_mean(self, num_parts: int) -> Codec:
        return self

    def encode(self, x: Tensor) -> Buffer:
        require_vector(x)
        if (payload := self.kernel.encode(x, self.size_bytes(len(x)))) is not None:
            return payload
        n, x = len(x), x.detach()
        packed = torch.empty(self.size_bytes(n), dtype=torch.uint8, device=x.device)
        scales = packed[: 4 * _num_blocks(n, BLOCK)].view(torch.float32)
        values = packed[4 * _num_blocks(n, BLOCK) :].view(torch.int8)
        for rows, blocks in blocked(n, BLOCK, slice_of(x)):
            scratch = self._scratch.of(rows.stop - rows.start, x.device)
            self._quantize(x[rows], scales[blocks], values[rows], scratch)
        if not scales_valid(scales):
            raise refuse(x, LARGEST)
        scales.masked_fill_(scales <= SCALE_MIN, 0.0)
        return bytes_of(packed)

    @staticmethod
    def _quantize(x: Tensor, scales: Tensor, values: Tensor, scratch: Tensor) -> None:
        shape = (len(scales), len(x) // len(scales))
        scratch = scratch.view(shape)
        torch.abs(x.view(shape), out=scratch)
        # Not below the smallest scale, so that its inverse is finite; `encode` turns those into 0.
        torch.div(torch.amax(scratch, 1), INT8_MAX, out=scales).clamp_(min=SCALE_MIN)
        torch.mul(x.view(shape), scales.reciprocal()[:, None], out=scratch)
        values.view(shape).copy_(scratch.round_())

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        out = output(out, n)
        require_size(payload, self.size_bytes(n))
        if self.kernel.decode(payload, out):
            return out
        scales, values = self._open(payload, n, out.device)
        for rows, blocks in blocked(n, BLOCK, slice_of(out)):
            _dequantize(values[rows], scales[blocks], out[rows])
        return out

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> float:
        require_size(payload, self.size_bytes(len(total)))
        if (found := self.kernel.add(total, payload, weight, first)) is not None:
            return found
        scales, values = self._open(payload, len(total), total.device)
        square = 0.0
        for rows, blocks in blocked(len(total), BLOCK, slice_of(total)):
            part = total[rows] if first else self._scratch.of(rows.stop - rows.start, total.device)
            # The weight goes into the scales: one pass over the values less.
            _dequantize(values[rows], scales[blocks] * weight, part)
            square += squared_norm(part)
            if not first:
                total[rows].add_(part)
        # A weight so small that nothing is left of its square moves nothing.
        return square / weight**2 if weight > 1e-18 else 0.0

    def _open(self, payload: Buffer, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The scales [blocks], checked, and the values [n]."""
        view, cut = memoryview(payload).cast("B"), 4 * _num_blocks(n, BLOCK)
        scales = torch.empty(_num_blocks(n, BLOCK))
        fill(scales, view[:cut])
        require_scales(scales)
        return scales.to(device), items_of(view[cut:], torch.int8).to(device)


class _Nibbles(AddsDecoded):
    """Four bits per value and a bfloat16 scale per block of 64, the last block filled up with zeros.

    Layout: ceil(n / 64) scales, then 32 bytes per block: value i in the low, value i + 32 in the high half of
    byte i. 34 ceil(n / 64) bytes.
    """

    shares_memory: ClassVar[bool] = False
    kernel: ClassVar[Kernel]

    def __init__(self) -> None:
        super().__init__()
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return (2 + _HALF) * _num_blocks(n, NIBBLE_BLOCK)

    def encode(self, x: Tensor) -> Buffer:
        require_vector(x)
        if (payload := self.kernel.encode(x, self.size_bytes(len(x)))) is not None:
            return payload
        n, x = len(x), x.detach()
        count = _num_blocks(n, NIBBLE_BLOCK)
        packed = torch.empty(self.size_bytes(n), dtype=torch.uint8, device=x.device)
        scales, codes = packed[: 2 * count].view(torch.bfloat16), packed[2 * count :].view(count, _HALF)
        for rows, blocks in blocked(n, NIBBLE_BLOCK, slice_of(x)):
            values = x[rows]
            if len(values) % NIBBLE_BLOCK:
                values = torch.nn.functional.pad(values, (0, NIBBLE_BLOCK - len(values)))
            scratch = self._scratch.of(len(values), x.device)
            self._quantize(values.view(-1, NIBBLE_BLOCK), scales[blocks], codes[blocks], scratch)
        if not scales_valid(scales):
            raise refuse(x)
        return bytes_of(packed)

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        out = output(out, n)
        require_size(payload, self.size_bytes(n))
        if self.kernel.decode(payload, out):
            return out
        count, packed = _num_blocks(n, NIBBLE_BLOCK), items_of(payload, torch.uint8)
        scales = torch.empty(count, dtype=torch.bfloat16)
        scales.view(torch.uint8).copy_(packed[: 2 * count])
        require_scales(scales)
        factors = scales.float().to(out.device)
        codes = packed[2 * count :].view(count, _HALF).to(out.device)
        for rows, blocks in blocked(n, NIBBLE_BLOCK, slice_of(out)):
            whole = (rows.stop - rows.start) % NIBBLE_BLOCK == 0
            values = out[rows] if whole else torch.empty(NIBBLE_BLOCK, device=out.device)
            self._dequantize(codes[blocks], factors[blocks][:, None], values.view(-1, NIBBLE_BLOCK))
            if not whole:
                out[rows] = values[: rows.stop - rows.start]
        return out

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> float:
        require_size(payload, self.size_bytes(len(total)))
        found = self.kernel.add(total, payload, weight, first)
        return super().add(total, payload, weight, first) if found is None else found

    def _quantize(self, x: Tensor, scales: Tensor, codes: Tensor, scratch: Tensor) -> None:
        """Blocks [b, 64] into scales [b] and codes [b, 32]."""
        raise NotImplementedError

    def _dequantize(self, codes: Tensor, scales: Tensor, out: Tensor) -> None:
        """Codes [b, 32] and scales [b, 1] into blocks [b, 64]."""
        raise NotImplementedError


class Int4(_Nibbles):
    """About half a byte per element: integers from -7 to 7, scale = absmax / 7 rounded to bfloat16, so an
    error of at most half a scale, and 0.4 % of the largest value where the scale was rounded down."""

    name: ClassVar[str] = "int4"
    kernel: ClassVar[Kernel] = Kernel("int4")

    def _quantize(self, x: Tensor, scales: Tensor, codes: Tensor, scratch: Tensor) -> None:
        work = scratch.view(x.shape)
        inverse = _scale(x, work, INT4_MAX, SCALE_MIN, scales)
        torch.mul(x, inverse, out=work)
        values = work.round_().clamp_(-INT4_MAX, INT4_MAX).to(torch.int8)
        signed = codes.view(torch.int8)
        torch.bitwise_left_shift(values[:, _HALF:], 4, out=signed)
        signed.bitwise_or_(values[:, :_HALF].bitwise_and_(15))

    def _dequantize(self, codes: Tensor, scales: Tensor, out: Tensor) -> None:
        signed = codes.view(torch.int8)
        out[:, _HALF:].copy_(signed >> 4)
        out[:, :_HALF].copy_((signed << 4).bitwise_right_shift_(4))
        out.mul_(scales)


class Fp4(_Nibbles):
    """About half a byte per element in the format E3M0 of Streaming DiLoCo (arXiv 2501.18512): a sign and a
    power of two, scale * 2^0 down to scale * 2^-6, or zero; scale = absmax rounded to bfloat16. Rounds to the
    power that is nearest in value, to zero up to 0.75 * 2^-6. (In the logarithm more values would move
    outwards than inwards, and a mean of many would grow.)"""

    name: ClassVar[str] = "fp4"
    kernel: ClassVar[Kernel] = Kernel("fp4")

    def _quantize(self, x: Tensor, scales: Tensor, codes: Tensor, scratch: Tensor) -> None:
        work = scratch.view(x.shape)
        inverse = _scale(x, work, 1.0, SCALE_MIN * 2.0**6, scales)
        # Half-way between two powers lies 1.5 times the lower one: times 4/3 that is the higher one, so that
        # the exponent of the product is that of the nearest.
        torch.mul(x, inverse * (4 / 3), out=work)
        torch.hardshrink(work, 2.0**-6, out=work)
        # Biased exponents are 121 to 127 or 0: their lowest three bits are the code. The sign stands above.
        high = work.view(torch.int32).bitwise_right_shift_(23).to(torch.int16)
        values = (high >> 5).bitwise_and_(8).bitwise_or_(high.bitwise_and_(7))
        codes.copy_((values[:, _HALF:] << 4).bitwise_or_(values[:, :_HALF]))

    def _dequantize(self, codes: Tensor, scales: Tensor, out: Tensor) -> None:
        at = codes.reshape(-1).to(torch.int32)
        low, high = (table.to(out.device) for table in _FP4_TABLES)
        torch.mul(low.index_select(0, at).view(codes.shape), scales, out=out[:, :_HALF])
        torch.mul(high.index_select(0, at).view(codes.shape), scales, out=out[:, _HALF:])


def _fp4_value(code: int) -> float:
    magnitude = 2.0 ** ((code & 7) - 7) if code & 7 else 0.0
    return -magnitude if code & 8 else magnitude


_FP4_TABLES = (
    torch.tensor([_fp4_value(byte & 15) for byte in range(256)]),
    torch.tensor([_fp4_value(byte >> 4) for byte in range(256)]),
)
"""Values of the low and the high half of a byte."""


def _scale(x: Tensor, work: Tensor, top: float, least: float, scales: Tensor) -> Tensor:
    """Write the scales [b] of blocks [b, 64] whose largest code is ``top``; their inverses [b, 1]. A scale
    that is not above ``least`` becomes 0, and the inverse too."""
    largest = torch.amax(torch.abs(x, out=work), 1).div_(top)
    scales.copy_(largest.masked_fill_(largest <= least, 0.0))
    rounded = scales.float()
    return rounded.clamp(min=least).reciprocal_().masked_fill_(rounded == 0.0, 0.0)[:, None]


def _dequantize(values: Tensor, scales: Tensor, out: Tensor) -> None:
    out.copy_(values)
    out.view(len(scales), len(out) // len(scales)).mul_(scales[:, None])


def _num_blocks(n: int, block: int) -> int:
    return -(-n // block)
