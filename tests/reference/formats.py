"""What a vector stands for once it has travelled, and its bytes: the wire formats as documentation says them.

Plain torch, without our codecs. Of each format a receiver's values, computed as its description reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]


def bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(torch.float32)


def fp16(x: Tensor) -> Tensor:
    return x.to(torch.float16).to(torch.float32)


def by_blocks(size: int, rule: Rounding) -> Rounding:
    """``rule`` for each run of ``size`` elements."""
    return lambda x: torch.cat([rule(block) for block in x.split(size)])


def _int8(block: Tensor) -> Tensor:
    """scale = absmax / 127 and value = round(x / scale)"""
    scale = block.abs().max() / 127
    return (block / scale).round() * scale if scale > 0 else torch.zeros_like(block)


def _int4(block: Tensor) -> Tensor:
    """Integers from -7 to 7, scale = absmax / 7 rounded to bfloat16."""
    scale = bf16(block.abs().max() / 7)
    return (block / scale).round().clamp(-7, 7) * scale if scale > 0 else torch.zeros_like(block)


def _fp4(block: Tensor) -> Tensor:
    """E3M0 (Streaming DiLoCo, 2501.18512): sign and scale * 2^0 .. 2^-6, or zero, whichever is nearest; the
    scale is the largest magnitude as bfloat16."""
    scale = bf16(block.abs().max())
    levels = scale * torch.tensor([0.0, *(2.0**-i for i in range(6, -1, -1))])
    # Zero up to 0.75 * 2^-6, as if the next lower power stood there.
    edges = scale * torch.tensor([0.75 * 2.0**-6, *(0.75 * 2.0**-i for i in range(5, -1, -1))])
    return levels[torch.bucketize(block.abs(), edges)] * block.sign()


def _int2(block: Tensor) -> Tensor:
    """SparseLoCo (2508.15706): four bins of equal width over six standard deviations around the mean, each
    decoded as the mean of the values in it, rounded to bfloat16."""
    return _four_bins(block, bf16)


def _int2_linear(block: Tensor) -> Tensor:
    """The nearest of -3/4, -1/4, 1/4 and 3/4 of the largest magnitude, which travels as bfloat16."""
    top = block.abs().max()
    if top == 0:
        return torch.zeros_like(block)
    levels = bf16(top) * torch.tensor([-0.75, -0.25, 0.25, 0.75])
    return levels[((block / top) * 2 + 2).floor().clamp(0, 3).long()]


ROUNDED: dict[str, Rounding] = {
    "fp32": lambda x: x,
    "fp16": fp16,
    "bf16": bf16,
    "int8": by_blocks(256, _int8),
    "int4": by_blocks(64, _int4),
    "fp4": by_blocks(64, _fp4),
    "int2": by_blocks(1024, _int2),
    "int2_linear": by_blocks(1024, _int2_linear),
}
"""What a receiver has of a vector."""

STEPS = {
    "fp32": 0.0,
    "fp16": 2.0**-10,
    "bf16": 2.0**-7,
    "int8": 1 / 127,
    "int4": 1 / 7,
    "fp4": 1 / 2,
    "int2": 1.5,
    "int2_linear": 1 / 2,
}
"""From a level to the next, at most, as a share of the largest magnitude."""

SIZES: dict[str, Callable[[int], int]] = {
    "fp32": lambda n: 4 * n,
    "fp16": lambda n: 2 * n,
    "bf16": lambda n: 2 * n,
    "int8": lambda n: 4 * math.ceil(n / 256) + n,
    "int4": lambda n: 34 * math.ceil(n / 64),
    "fp4": lambda n: 34 * math.ceil(n / 64),
    "int2": lambda n: 8 * math.ceil(n / 1024) + math.ceil(n / 4),
    "int2_linear": lambda n: 2 * math.ceil(n / 1024) + math.ceil(n / 4),
}
"""Bytes of so many elements."""

CHUNK = 4096


def top_k(x: Tensor, keep: int, value_bits: int) -> Tensor:
    """TopK of each 4096 elements, of the last m of them ceil(keep m / 4096), with values of few bits."""
    return torch.cat([_top_k_of(chunk, _kept(keep, len(chunk)), value_bits) for chunk in x.split(CHUNK)])


def top_k_bytes(n: int, keep: int, value_bits: int) -> int:
    """Numbers for each chunk's scales, 12 bits for an index, and the values."""
    lengths = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
    entries = sum(_kept(keep, length) for length in lengths)
    numbers = {2: 4, 4: 2, 8: 2, 16: 0}[value_bits] * len(lengths)
    return numbers + math.ceil(1.5 * entries) + math.ceil(entries * value_bits / 8)


def top_k_mean_bytes(n: int, keep: int, parts: int) -> int:
    """All entries that so many parts can have between them, as bfloat16; dense where that is smaller."""
    lengths = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
    entries = sum(min(length, parts * _kept(keep, length)) for length in lengths)
    return min(2 * n, math.ceil(1.5 * entries) + 2 * entries)


def _kept(keep: int, length: int) -> int:
    return math.ceil(keep * length / CHUNK)


def _top_k_of(chunk: Tensor, kept: int, value_bits: int) -> Tensor:
    where = chunk.abs().topk(kept).indices
    out = torch.zeros_like(chunk)
    out[where] = _few_bits(chunk[where], value_bits)
    return out


def _few_bits(x: Tensor, bits: int) -> Tensor:
    if bits == 16:
        return bf16(x)
    if bits in (4, 8):
        top = 2 ** (bits - 1) - 1
        scale = bf16(x.abs().max() / top)
        return (x / scale).round().clamp(-top, top) * scale
    return two_bits(x)


def two_bits(x: Tensor) -> Tensor:
    """A sign and one of two magnitudes: the mean of those below and of those above the mean magnitude."""
    size = x.abs()
    above = size > size.mean()
    out = torch.zeros_like(x)
    for half in (above, ~above):
        if half.any():
            out[half] = bf16(size[half].mean())
    return out * x.sign()


def papers_two_bits(x: Tensor) -> Tensor:
    """SparseLoCo's own: "subtract mean, 4 uniform bins over 6 sigma, decode with per-bin means"."""
    return _four_bins(x, lambda value: value)


def _four_bins(x: Tensor, kept_as: Rounding) -> Tensor:
    width = 6 * x.std(correction=0) / 4
    bins = ((x - x.mean()) / width + 2).floor().clamp(0, 3)
    out = torch.zeros_like(x)
    for index in range(4):
        here = bins == index
        if here.any():
            out[here] = kept_as(x[here].mean())
    return out
