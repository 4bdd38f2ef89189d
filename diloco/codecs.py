"""Codecs: how a slice of an fp32 vector becomes bytes on the wire and back.

Owns the wire formats `fp32`, `bf16` and `int8`, their exact sizes and their arithmetic, on whatever
device the tensor lives. Refuses to own chunks, members and rounds: see `payloads`. The same bytes
decode to the same bits on every machine: multiply and add round separately, without `alpha=`,
`lerp`, `addcmul` or compilation. What is not finite is never encoded and never added (S12).
A codec keeps scratch memory: one thread at a time uses an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from diloco.vectors import Buffer, Scratch, all_finite, bytes_of, count_non_finite, fill, items_of, spans

BLOCK = 256
"""Elements that share one int8 scale."""
SCALE_MIN = float(torch.finfo(torch.float32).tiny)
"""Smallest scale: below it a block is sent as zeros, so that no denormal number is ever computed with,
and machines that flush those decode the same bits as machines that do not."""
SCALE_MAX = float(torch.finfo(torch.float32).max) / 128
"""Largest scale: any int8 value times it is finite."""
INT8_MAX = 127.0


class CodecError(ValueError):
    """A tensor or a payload that this codec cannot take."""


class NonFinite(CodecError):
    """Values that are infinite, not a number, or beyond what the codec can hold; ``count`` of them."""

    def __init__(self, count: int, what: str) -> None:
        super().__init__(f"{count} {what}")
        self.count = count


class WrongSize(CodecError):
    """A payload of another size than the codec implies for this many elements."""


class Codec(Protocol):
    """A wire format for fp32 vectors. Tensors are 1-D fp32 on any device; payloads are on the CPU."""

    name: ClassVar[str]
    shares_memory: ClassVar[bool]
    """True if `encode` may hand out the tensor's own memory instead of a copy, and `decode` of those bytes
    into the same memory only checks them."""

    def size_bytes(self, n: int) -> int:
        """Exact size of ``n`` encoded elements."""

    def encode(self, x: Tensor) -> Buffer:
        """The bytes for ``x`` [n]. Raises `NonFinite`."""

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        """The ``n`` values in ``payload``, written to ``out`` [n] (by default new, on the CPU).
        Raises `NonFinite` and `WrongSize`; after `NonFinite` the content of ``out`` is unspecified."""

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> None:
        """total += weight * decoded, the weight rounded to fp32, each operation rounded separately; with
        ``first``, total = weight * decoded, whatever it was. Raises `NonFinite` and `WrongSize`; after
        `NonFinite` the content of ``total`` is unspecified."""


def codec(name: str) -> Codec:
    """A new codec by its name. Raises ValueError that lists the names there are."""
    if name not in CODECS:
        raise ValueError(f"codec {name!r} is unknown: choose one of {', '.join(CODECS)}")
    return CODECS[name]()


class Fp32:
    """Four bytes per element: the values as they are. 4 n bytes."""

    name: ClassVar[str] = "fp32"
    shares_memory: ClassVar[bool] = True

    def __init__(self) -> None:
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return 4 * n

    def encode(self, x: Tensor) -> Buffer:
        _require_vector(x)
        _require_finite(x)
        return bytes_of(x)

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        _require_size(payload, self.size_bytes(n))
        out, values = _output(out, n), items_of(payload, torch.float32)
        # An owner decodes the result that it has just made in this very place.
        in_place = values.data_ptr() == out.data_ptr()
        for span in spans(out):
            if not in_place:
                out[span].copy_(values[span])
            _require_finite(out[span])
        return out

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> None:
        _require_size(payload, self.size_bytes(len(total)))
        values = items_of(payload, torch.float32)
        for span in spans(total):
            part = values[span].to(total.device)
            _require_finite(part)
            add_weighted(total[span], part, weight, self._scratch, first)


class Bf16:
    """Two bytes per element: fp32 rounded to the nearest bfloat16, ties to even. 2 n bytes."""

    name: ClassVar[str] = "bf16"
    shares_memory: ClassVar[bool] = False

    def __init__(self) -> None:
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return 2 * n

    def encode(self, x: Tensor) -> Buffer:
        _require_vector(x)
        halves = torch.empty(len(x), dtype=torch.bfloat16, device=x.device)
        for span in spans(x):
            halves[span].copy_(x.detach()[span])
            # After rounding: the largest fp32 values round to infinity.
            if not all_finite(halves[span]):
                raise NonFinite(count_non_finite(x.detach().to(torch.bfloat16)), "values are not finite")
        return bytes_of(halves)

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        _require_size(payload, self.size_bytes(n))
        out, halves = _output(out, n), items_of(payload, torch.bfloat16)
        for span in spans(out):
            out[span].copy_(halves[span])
            _require_finite(out[span])
        return out

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> None:
        _require_size(payload, self.size_bytes(len(total)))
        halves = items_of(payload, torch.bfloat16)
        for span in spans(total):
            part = total[span] if first else self._scratch.of(span.stop - span.start, total.device)
            _require_finite(part.copy_(halves[span]))
            part.mul_(weight)
            if not first:
                total[span].add_(part)


class Int8:
    """About one byte per element: int8 with one fp32 scale per block of 256.

    Layout: ceil(n / 256) scales, then n int8 values; 4 ceil(n / 256) + n bytes. For each block
    scale = absmax / 127 and value = round(x / scale), ties to even, so an error of at most half a
    scale. A block whose scale would be denormal has scale 0. Magnitudes above 3.37e38 count as
    non-finite, since their block could decode to infinity.
    """

    name: ClassVar[str] = "int8"
    shares_memory: ClassVar[bool] = False

    def __init__(self) -> None:
        self._scratch = Scratch(torch.float32)

    def size_bytes(self, n: int) -> int:
        return 4 * _num_blocks(n) + n

    def encode(self, x: Tensor) -> Buffer:
        _require_vector(x)
        n, x = len(x), x.detach()
        packed = torch.empty(self.size_bytes(n), dtype=torch.uint8, device=x.device)
        scales = packed[: 4 * _num_blocks(n)].view(torch.float32)
        values = packed[4 * _num_blocks(n) :].view(torch.int8)
        for rows, blocks in _blocked(x):
            scratch = self._scratch.of(rows.stop - rows.start, x.device)
            self._quantize(x[rows], scales[blocks], values[rows], scratch)
        if not _scales_valid(scales):
            bad = ~(x.abs() <= INT8_MAX * SCALE_MAX)
            raise NonFinite(int(bad.sum()), "values are not finite (or above 3.37e38)")
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
        out = _output(out, n)
        scales, values = self._open(payload, n, out.device)
        for rows, blocks in _blocked(out):
            _dequantize(values[rows], scales[blocks], out[rows])
        return out

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool = False) -> None:
        scales, values = self._open(payload, len(total), total.device)
        for rows, blocks in _blocked(total):
            part = total[rows] if first else self._scratch.of(rows.stop - rows.start, total.device)
            _dequantize(values[rows], scales[blocks], part)
            part.mul_(weight)
            if not first:
                total[rows].add_(part)

    def _open(self, payload: Buffer, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The scales [blocks], checked, and the values [n]."""
        _require_size(payload, self.size_bytes(n))
        view, cut = memoryview(payload).cast("B"), 4 * _num_blocks(n)
        scales = torch.empty(_num_blocks(n))
        fill(scales, view[:cut])
        if not _scales_valid(scales):
            bad = ~((scales >= 0) & (scales <= SCALE_MAX))
            raise NonFinite(int(bad.sum()), "block scales are not finite, negative or too large")
        return scales.to(device), items_of(view[cut:], torch.int8).to(device)


CODECS: dict[str, Callable[[], Codec]] = {each.name: each for each in (Fp32, Bf16, Int8)}
"""Every codec there is, by its name; `methods.CODEC_NAMES` is the same list without torch."""


def _blocked(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pairs (elements, blocks) that cover the vector, each of equally long blocks: the last block, if
    it is short, comes alone."""
    for span in spans(x):
        whole = span.start + (span.stop - span.start) // BLOCK * BLOCK
        if whole > span.start:
            yield slice(span.start, whole), slice(span.start // BLOCK, whole // BLOCK)
        if whole < span.stop:
            yield slice(whole, span.stop), slice(whole // BLOCK, whole // BLOCK + 1)


def _dequantize(values: Tensor, scales: Tensor, out: Tensor) -> None:
    out.copy_(values)
    out.view(len(scales), len(out) // len(scales)).mul_(scales[:, None])


def add_weighted(total: Tensor, part: Tensor, weight: float, scratch: Scratch, first: bool) -> None:
    """total += weight * part, rounded twice; with ``first``, total = weight * part."""
    if first:
        torch.mul(part, weight, out=total)
    else:
        total.add_(torch.mul(part, weight, out=scratch.of(len(part), total.device)))


def _num_blocks(n: int) -> int:
    return -(-n // BLOCK)


def _output(out: Tensor | None, n: int) -> Tensor:
    if out is None:
        return torch.empty(n)
    _require_vector(out)
    if len(out) != n or not out.is_contiguous():
        raise CodecError(f"the output is not a contiguous vector of {n} elements")
    return out


def _scales_valid(scales: Tensor) -> bool:
    if not len(scales):
        return True
    low, high = torch.aminmax(scales)
    return float(low) >= 0.0 and float(high) <= SCALE_MAX


def _require_finite(x: Tensor) -> None:
    if not all_finite(x):
        raise NonFinite(count_non_finite(x), "values are not finite")


def _require_vector(x: Tensor) -> None:
    if x.dim() != 1 or x.dtype != torch.float32:
        raise CodecError(f"a codec takes a vector of float32, not {x.dtype} of shape {tuple(x.shape)}")


def _require_size(payload: Buffer, size: int) -> None:
    got = memoryview(payload).nbytes
    if got != size:
        raise WrongSize(f"the payload has {got} bytes instead of {size}")
