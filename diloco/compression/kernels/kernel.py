"""Calls of the compiled kernels with tensors and payloads: what a codec asks before it goes on by torch.

Owns the checks that memory is as the kernels take it: fp32 vectors that lie contiguously on the CPU, and
payloads of exactly the size that their elements need, at any address. Whatever else there is gives None, and
so does what a kernel refuses as not finite: torch then does it, or says what is wrong. Nothing is added of a
payload whose scales are refused; after another refusal the content of a sum is unspecified, as with torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diloco.compression.kernels.library import CPart, library
from diloco.compression.vectors import Buffer

_FORMATS = ("fp32", "fp16", "bf16", "int8", "int4", "fp4")
"""In the order of kernels.c."""
_TAKEN, _REFUSED = 0, 1
_Bytes = npt.NDArray[np.uint8]


class Sized(Protocol):
    """What is asked of a codec here."""

    def size_bytes(self, n: int) -> int:
        """Exact size of ``n`` encoded elements."""


class Kernel:
    """The arithmetic of one wire format, by its name. Holds no state."""

    def __init__(self, name: str) -> None:
        self.format = _FORMATS.index(name)

    def encode(self, x: Tensor, size: int) -> Buffer | None:
        """The ``size`` bytes for ``x`` [n]."""
        found = library()
        if found is None or not _takes(x):
            return None
        packed = _room_for(size)
        status = found.diloco_encode(self.format, x.data_ptr(), x.numel(), packed.ctypes.data, size)
        return packed.data if _taken(status) else None

    def encodes_in_place(self, x: Tensor) -> bool:
        """Whether ``x`` [n] is its own payload of fp32: all of it is finite."""
        found = library()
        if found is None or not _takes(x):
            return False
        return _taken(found.diloco_encode(self.format, x.data_ptr(), x.numel(), x.data_ptr(), 4 * x.numel()))

    def decode(self, payload: Buffer, out: Tensor) -> bool:
        """Whether ``out`` [n] has the values of ``payload`` now."""
        return self.add(out, payload, 1.0, first=True) is not None

    def add(self, total: Tensor, payload: Buffer, weight: float, first: bool) -> float | None:
        """See `Codec.add`."""
        found = library()
        if found is None or not _takes(total):
            return None
        raw, square = _raw(payload), ctypes.c_double()
        where = total.data_ptr(), total.numel(), raw.ctypes.data, len(raw)
        status = found.diloco_add(self.format, *where, weight, first, square)
        return square.value if _taken(status) else None


def kernel_of(codec: object) -> Kernel | None:
    """The kernel of a codec, if its format has one."""
    found = getattr(codec, "kernel", None)
    return found if isinstance(found, Kernel) else None


class Reduced(NamedTuple):
    """A weighted sum of parts, encoded."""

    payload: Buffer
    squares: list[float]
    """Squared norms of the parts that were payloads, 0 for those that were vectors."""
    square: float
    """Squared norm of what the payload decodes to."""


def reduce(
    codec: Sized, means: Sized, parts: Sequence[tuple[Buffer | Tensor, float]], out: Tensor, shared: bool
) -> Reduced | None:
    """The weighted sum of parts, in their order, which are payloads of ``codec`` or vectors [n], encoded by
    ``means``. What that decodes to is in ``out`` [n] fp32 then, which is the payload too if it is ``shared``,
    as that of fp32 may be."""
    found, ours, theirs = library(), kernel_of(codec), kernel_of(means)
    if found is None or ours is None or theirs is None or not _takes(out):
        return None
    n, size = out.numel(), codec.size_bytes(out.numel())
    held, given = [], (CPart * len(parts))()
    for (part, weight), each in zip(parts, given, strict=True):
        each.weight = weight
        if isinstance(part, Tensor):
            if not _takes(part) or part.numel() != n:
                return None
            each.values = part.data_ptr()
        else:
            held.append(raw := _raw(part))
            if len(raw) != size:
                return None
            each.payload = raw.ctypes.data
    packed = _bytes_in(out) if shared else _room_for(means.size_bytes(n))
    mean, square = (packed.ctypes.data, len(packed)), ctypes.c_double()
    inputs = ours.format, given, len(parts), size, n
    if not _taken(found.diloco_reduce(*inputs, theirs.format, *mean, out.data_ptr(), square)):
        return None
    return Reduced(packed.data, [each.square for each in given], square.value)


def subtract(a: Tensor, b: Tensor, out: Tensor) -> float | None:
    """out = a - b, all [n], where ``out`` may be one of them. Returns its squared norm, which is not finite
    if and only if a value of it is not."""
    found, square = library(), ctypes.c_double()
    if found is None or not all(_takes(each) and len(each) == out.numel() for each in (a, b, out)):
        return None
    where = [each.data_ptr() for each in (a, b, out)]
    return square.value if _taken(found.diloco_subtract(*where, out.numel(), square)) else None


def nesterov(
    theta: Tensor,
    buffer: Tensor,
    delta: Tensor,
    lr: float,
    momentum: float,
    out_theta: Tensor,
    out_buffer: Tensor,
) -> Callable[[slice], None] | None:
    """buffer' = momentum * buffer + delta, theta' = theta - lr * (momentum * buffer' + delta), all [n] and
    each operation rounded by itself, into outputs that may be the inputs: what does it to a slice of the
    elements, without a call of torch."""
    found, given = library(), (theta, buffer, delta, out_theta, out_buffer)
    if found is None or not all(_takes(each) and len(each) == len(theta) for each in given):
        return None
    run, n = found.diloco_nesterov, len(theta)

    def step(span: slice) -> None:
        start, stop, _ = span.indices(n)
        first, second, third, *outputs = (each.data_ptr() + 4 * start for each in given)
        _taken(run(first, second, third, lr, momentum, *outputs, stop - start))

    return step


def _takes(x: Tensor) -> bool:
    return x.dim() == 1 and x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()


def _taken(status: int) -> bool:
    assert status in (_TAKEN, _REFUSED), "sizes were checked before"
    return status == _TAKEN


def _room_for(size: int) -> _Bytes:
    # Numpy keeps the interpreter's lock, which torch lets go for every tensor that it makes.
    return np.empty(size, dtype=np.uint8)


def _bytes_in(x: Tensor) -> _Bytes:
    return x.numpy().view(np.uint8)


def _raw(payload: Buffer) -> _Bytes:
    return np.frombuffer(payload, dtype=np.uint8)
