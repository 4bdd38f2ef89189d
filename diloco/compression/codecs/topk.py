"""`topk`: the largest of each 4096 elements, with packed indices.

Owns the choice of elements, 12-bit indices and the values' few bits. Ties go to the lower index, so that
every device chooses alike.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from diloco.compression.codecs.base import (
    SCALE_MIN,
    AddsDecoded,
    Codec,
    output,
    refuse,
    require_scales,
    require_size,
    require_vector,
    scales_valid,
)
from diloco.compression.codecs.plain import Bf16
from diloco.compression.deterministic import pairwise_sum
from diloco.compression.vectors import Buffer, all_finite, bytes_of, items_of
from diloco.errors import CodecError, NonFinite
from diloco.methods.wire_formats import TOP_K_CHUNK

CHUNK = TOP_K_CHUNK
"""Elements among which the largest are chosen: 12 bits name one of them."""
_CHUNKS_AT_ONCE = 512
"""On a CPU: scratch stays small, and there are rows enough for several threads to share."""


class TopK(AddsDecoded):
    """The ``keep`` largest magnitudes of each 4096 elements; the last, shorter chunk of m keeps ceil(keep * m
    / 4096). A value takes ``value_bits`` bits: 16 is bfloat16; 8 and 4 are integers with one bfloat16 scale
    per chunk; 2 is a sign and one of two magnitudes, the mean of those below and that of those above the mean
    magnitude of the chunk, two bfloat16 per chunk. (Of values that are the largest of many none is near zero,
    so that four bins over six standard deviations, as in SparseLoCo, arXiv 2508.15706, come to just that.)

    Layout for e entries in c chunks: the scales, 2 c bytes (4 and 8 bits), 4 c (2 bits) or none; ceil(3 e /
    2) bytes of indices, two in three bytes, rising in each chunk; ceil(e * value_bits / 8) bytes of values.
    """

    name: ClassVar[str] = "topk"
    shares_memory: ClassVar[bool] = False

    def __init__(self, keep: int = 64, value_bits: int = 8, num_parts: int = 1) -> None:
        """With ``num_parts`` every chunk keeps what so many parts can have between them, each with ``keep``
        of 4096."""
        super().__init__()
        if not 1 <= keep <= CHUNK or value_bits not in (2, 4, 8, 16):
            raise ValueError(
                f"topk keeps 1 to {CHUNK} values of 2, 4, 8 or 16 bits, not {keep} of {value_bits}"
            )
        self._keep_of_part, self._bits, self._num_parts = keep, value_bits, num_parts
        self._keep = min(CHUNK, keep * num_parts)

    def size_bytes(self, n: int) -> int:
        entries, chunks = self._num_entries(n), -(-n // CHUNK)
        return 2 * self._numbers * chunks + (3 * entries + 1) // 2 + -(-entries * self._bits // 8)

    def for_mean(self, num_parts: int) -> Codec:
        """All entries that so many parts can have between them, as bfloat16; dense where that is smaller."""
        num_parts = self._num_parts * max(1, num_parts)
        dense = 3.5 * self._keep_of_part * num_parts >= 2 * CHUNK
        return Bf16() if dense else TopK(self._keep_of_part, 16, num_parts)

    @property
    def _numbers(self) -> int:
        return {2: 2, 4: 1, 8: 1, 16: 0}[self._bits]

    def _num_entries(self, n: int) -> int:
        whole, rest = divmod(n, CHUNK)
        # A part rounds up what it keeps of the last chunk: so many times that, not that of the sum.
        of_part = -(-self._keep_of_part * rest // CHUNK)
        return whole * self._keep + min(rest, of_part * self._num_parts)

    def encode(self, x: Tensor) -> Buffer:
        require_vector(x)
        n, x = len(x), x.detach()
        packed = torch.zeros(self.size_bytes(n), dtype=torch.uint8, device=x.device)
        whole, found = n // CHUNK * CHUNK, []
        step = _CHUNKS_AT_ONCE * CHUNK if x.device.type == "cpu" else max(1, whole)
        for start in range(0, whole, step):
            rows = x[start : min(start + step, whole)].view(-1, CHUNK)
            found.append(_largest(rows, self._keep))
        if whole < n:
            found.append(_largest(x[None, whole:], self._num_entries(n - whole)))
        if any(each is None for each in found):
            raise refuse(x)
        indices = (
            torch.cat([each.flatten() for each in found if each is not None])
            if found
            else torch.empty(0, dtype=torch.int64)
        )
        values = x[indices + self._starts(n, x.device)]
        if not self._write(packed, n, indices, values):
            raise refuse(x)
        return bytes_of(packed)

    def _write(self, packed: Tensor, n: int, indices: Tensor, values: Tensor) -> bool:
        at_indices, at_values = self._cuts(n)
        packed[at_indices:at_values] = _pack_indices(indices)
        numbers = packed[:at_indices].view(torch.bfloat16).view(-(-n // CHUNK), self._numbers)
        codes = torch.empty(len(values), dtype=_code_dtype(self._bits), device=values.device)
        for spot, chunks, shape in self._spots(n):
            _quantize(values[spot].view(shape), self._bits, numbers[chunks], codes[spot].view(shape))
        packed[at_values:] = _pack(codes, self._bits)
        return scales_valid(numbers.float().flatten()) and (self._bits < 16 or all_finite(codes))

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        out = output(out, n)
        require_size(payload, self.size_bytes(n))
        packed = items_of(payload, torch.uint8)
        at_indices, at_values = self._cuts(n)
        indices = _unpack_indices(packed[at_indices:at_values], self._num_entries(n))
        self._check(indices, n)
        numbers = torch.empty((-(-n // CHUNK), self._numbers), dtype=torch.bfloat16)
        numbers.view(-1).view(torch.uint8).copy_(packed[:at_indices])
        require_scales(numbers.float().flatten())
        codes, values = _unpack(packed[at_values:], self._bits), torch.empty(len(indices))
        for spot, chunks, shape in self._spots(n):
            values[spot] = _dequantize(codes[spot].view(shape), self._bits, numbers[chunks]).flatten()
        if not all_finite(values):
            raise NonFinite(int((~torch.isfinite(values)).sum()), "values are not finite")
        out.zero_()
        out[(indices + self._starts(n, indices.device)).to(out.device)] = values.to(out.device)
        return out

    def _cuts(self, n: int) -> tuple[int, int]:
        """Where the indices begin, and the values."""
        at_indices = 2 * self._numbers * -(-n // CHUNK)
        return at_indices, at_indices + (3 * self._num_entries(n) + 1) // 2

    def _spots(self, n: int) -> list[tuple[slice, slice, tuple[int, int]]]:
        """Runs of entries from equally long chunks: the entries, their chunks, and [chunks, entries of
        each]."""
        whole, rest = divmod(n, CHUNK)
        entries = whole * self._keep
        spots = [(slice(0, entries), slice(0, whole), (whole, self._keep))] if whole else []
        if rest:
            last = self._num_entries(rest)
            spots.append((slice(entries, entries + last), slice(whole, whole + 1), (1, last)))
        return spots

    def _starts(self, n: int, device: torch.device) -> Tensor:
        """Where each entry's chunk begins."""
        whole, rest = divmod(n, CHUNK)
        chunks = torch.arange(whole, device=device).repeat_interleave(self._keep)
        last = torch.full((self._num_entries(rest),), whole, device=device)
        return torch.cat([chunks, last]) * CHUNK

    def _check(self, indices: Tensor, n: int) -> None:
        for spot, _, shape in self._spots(n):
            found = indices[spot].view(shape)
            length = CHUNK if shape[0] > 1 or spot.stop <= n // CHUNK * self._keep else n % CHUNK
            if bool((found[:, 1:] <= found[:, :-1]).any()) or int(found[:, -1].max()) >= length:
                raise CodecError("indices do not rise, or lie outside their chunk")


def _largest(x: Tensor, keep: int) -> Tensor | None:
    """Indices [rows, keep], rising, of the largest magnitudes in each row of ``x`` [rows, m]; None if some
    are not finite."""
    rows, m = x.shape
    # Whatever is among the ``keep`` largest lies in one of the ``keep`` strided strips with the largest
    # maxima: finding those is elementwise, and leaves far fewer elements to compare and to choose from.
    strips = next((s for s in (16, 8, 4) if m % s == 0 and m // s >= 2 * keep), 1)
    if strips == 1:
        return _largest_with_ties(x, keep, strips)
    lanes = x.view(rows, strips, -1)
    maxima = torch.maximum(lanes.amax(1), lanes.amin(1).neg_())
    if not all_finite(maxima):
        return None
    below = maxima.topk(keep + 1, dim=1, sorted=False).values.amin(1, keepdim=True)
    nearby = maxima > below
    clear = nearby.sum(1) == keep
    if not bool(clear.all()):
        # Strips with equal maxima at the border, as in a chunk of zeros.
        return _apart(x, keep, strips, clear)
    columns = (nearby.flatten().nonzero().flatten() % maxima.shape[1]).view(rows, keep)
    near = lanes.gather(2, columns[:, None].expand(-1, strips, -1)).abs_()
    chosen = (near > below[:, None]).flatten().nonzero().flatten()
    row = chosen // (strips * keep)
    strip = chosen // keep - row * strips
    column = strip * maxima.shape[1] + columns.flatten()[row * keep + chosen % keep]
    return _fewer(near.flatten()[chosen], row, column, rows, keep)


def _apart(x: Tensor, keep: int, strips: int, clear: Tensor) -> Tensor:
    """`_largest` of rows of which only some are ``clear``."""
    found = torch.empty((len(x), keep), dtype=torch.int64, device=x.device)
    largest = _largest(x[clear], keep) if bool(clear.any()) else found[clear]
    others = _largest_with_ties(x[~clear], keep, strips)
    assert largest is not None, "the maxima are finite"
    assert others is not None, "the maxima are finite"
    found[clear], found[~clear] = largest, others
    return found


def _largest_with_ties(x: Tensor, keep: int, strips: int) -> Tensor | None:
    """`_largest` of any values: slower."""
    magnitudes = x.abs()
    rows, m = x.shape
    # As many maxima of disjoint strips as are kept bound the smallest of those kept from below.
    maxima = magnitudes.view(rows, strips, -1).amax(1)
    if not all_finite(maxima):
        return None
    bound = maxima.topk(keep, dim=1, sorted=False).values.amin(1, keepdim=True)
    candidates = magnitudes >= bound
    # Of zeros only those at the first ``keep`` places can be kept, since the lower index wins: without this,
    # every element of a chunk of zeros, as parameters that were not used give, is a candidate.
    candidates[:, keep:] &= magnitudes[:, keep:] > 0
    chosen = candidates.flatten().nonzero().flatten()
    return _fewer(magnitudes.flatten()[chosen], chosen // m, chosen % m, rows, keep)


def _fewer(values: Tensor, row: Tensor, column: Tensor, rows: int, keep: int) -> Tensor:
    """The columns [rows, keep] of the ``keep`` largest of each row's candidates, of equals those with the
    lower column. Candidates come by row, then by column."""
    counts = torch.bincount(row, minlength=rows)
    if len(row) == rows * keep:
        return column.view(rows, keep)  # each has at least as many
    begin = torch.cumsum(counts, 0) - counts
    position = torch.arange(len(row), device=row.device) - begin[row]
    padded = torch.full((rows, int(counts.max())), -1.0, device=values.device)
    padded[row, position] = values
    bound = padded.topk(keep, dim=1, sorted=False).values.amin(1)
    kept = values >= bound[row]
    if int(kept.sum()) == rows * keep:
        return column[kept].view(rows, keep)
    columns = torch.zeros(padded.shape, dtype=torch.int64, device=values.device)
    columns[row, position] = column
    order = padded.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    return columns.gather(1, order).sort(dim=1).values


def _code_dtype(bits: int) -> torch.dtype:
    return torch.bfloat16 if bits == 16 else torch.uint8


def _quantize(values: Tensor, bits: int, numbers: Tensor, codes: Tensor) -> None:
    """Fills ``codes`` [chunks, k] for values [chunks, k], and the chunks' ``numbers``."""
    if bits == 16:
        codes.copy_(values)
        return
    if bits == 2:
        _quantize_two_bits(values, numbers, codes)
        return
    top = 127.0 if bits == 8 else 7.0
    largest = values.abs().amax(1).div_(top)
    numbers[:, 0] = largest.masked_fill_(largest <= SCALE_MIN, 0.0)
    scales = numbers[:, :1].float()
    integers = (values / scales.clamp(min=SCALE_MIN)).round_().clamp_(-top, top)
    codes.copy_(integers.masked_fill_(scales == 0.0, 0.0).add_(top + 1))


def _quantize_two_bits(values: Tensor, numbers: Tensor, codes: Tensor) -> None:
    magnitudes = values.abs()
    large = magnitudes > pairwise_sum(magnitudes)[:, None] / magnitudes.shape[1]
    for at, inside in enumerate((~large, large)):
        share = inside.float()
        count = pairwise_sum(share).clamp_(min=1)
        numbers[:, at] = pairwise_sum(share.mul_(magnitudes)).div_(count)
    numbers.masked_fill_(numbers < SCALE_MIN, 0.0)
    codes.copy_(large).add_(2 * (values < 0).to(torch.uint8))


def _dequantize(codes: Tensor, bits: int, numbers: Tensor) -> Tensor:
    """Values [chunks, k] of their codes [chunks, k]."""
    if bits == 16:
        return codes.float()
    scales = numbers.float()
    if bits == 2:
        magnitudes = scales.gather(1, (codes & 1).long())
        return torch.where(codes >= 2, -magnitudes, magnitudes)
    return (codes.float() - (128.0 if bits == 8 else 8.0)) * scales


def _pack(codes: Tensor, bits: int) -> Tensor:
    """The bytes of codes [n] of so many bits, one after the other from the lowest bits of a byte."""
    if bits == 16:
        return codes.view(torch.uint8)
    per_byte = 8 // bits
    flat = torch.nn.functional.pad(codes, (0, -len(codes) % per_byte)).view(-1, per_byte)
    packed = flat[:, 0].clone()
    for place in range(1, per_byte):
        packed |= flat[:, place] << bits * place
    return packed


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """The codes [n] in bytes, and up to three more of what fills the last byte."""
    if bits == 16:
        codes = torch.empty(len(packed) // 2, dtype=torch.bfloat16)
        codes.view(torch.uint8).copy_(packed)
        return codes
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return (packed[:, None] >> shifts & (1 << bits) - 1).flatten()


def _pack_indices(indices: Tensor) -> Tensor:
    """Indices int64 of 12 bits, two in three bytes."""
    pairs = torch.nn.functional.pad(indices, (0, len(indices) % 2)).view(-1, 2)
    both = pairs[:, 0] | pairs[:, 1] << 12
    packed = torch.stack([both, both >> 8, both >> 16], dim=1).bitwise_and_(255).to(torch.uint8).flatten()
    return packed[: (3 * len(indices) + 1) // 2]


def _unpack_indices(packed: Tensor, count: int) -> Tensor:
    triples = torch.nn.functional.pad(packed, (0, -len(packed) % 3)).view(-1, 3).long()
    both = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
    return torch.stack([both & 4095, both >> 12], dim=1).flatten()[:count]
