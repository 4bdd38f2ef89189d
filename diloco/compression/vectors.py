"""Vectors as memory: where they are kept, their raw bytes and back, slices that fit the cache, and
finiteness.

Owns what codecs and outer state both need below the arithmetic. Decides nothing about formats. Bytes are
the little-endian memory of the tensor as it lies.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diloco.compression.memory import VectorMemory

if sys.byteorder != "little":  # the wire is little-endian and tensors are handed over as they lie
    raise ImportError("diloco needs a little-endian machine")

Buffer = bytes | bytearray | memoryview

SLICE = 256 * 1024
"""Elements worked on at once on a CPU: 1 MiB of fp32, so that scratch stays in the cache, and the cost of
handing work to torch's threads is small against the work."""


_PATIENCE = 24
"""Vectors of each fragment after which memory that none of them took is given up. A round takes 3 to 8, and a
method that overlaps rounds takes the same memory again in every second one."""


class VectorDevice:
    """Where long-lived fp32 vectors are kept: on the CPU, in pinned memory if ``pinned``. Their memory is
    used again once nobody refers to it: by `memory`, and pinned memory by torch."""

    def __init__(self, *, pinned: bool = False, num_fragments: int = 1) -> None:
        self.pinned = pinned
        self._memory = VectorMemory(_PATIENCE * num_fragments)

    @classmethod
    def beside(cls, tensors: Iterable[Tensor], num_fragments: int = 1) -> VectorDevice:
        """The place for vectors that are copied from and to ``tensors``, in so many fragments: pinned memory
        if any of them is on an accelerator, since such copies overlap with its work."""
        return cls(pinned=any(tensor.is_cuda for tensor in tensors), num_fragments=num_fragments)

    @property
    def size_bytes(self) -> int:
        """Of vectors in unpinned memory that are in use or wait for it."""
        return self._memory.size_bytes

    def empty(self, n: int) -> Tensor:
        """An uninitialised vector [n]."""
        return torch.empty(n, pin_memory=True) if self.pinned else self.unpinned(n)

    def unpinned(self, n: int) -> Tensor:
        """The same for a vector that never meets an accelerator."""
        return self._memory.empty(n)

    def zeros(self, n: int) -> Tensor:
        """A vector [n] of zeros. On the CPU it takes no memory until it is written."""
        return self.empty(n).zero_() if self.pinned else self._memory.zeros(n)

    def copy(self, x: Tensor) -> Tensor:
        """Another vector with the values of ``x`` [n]."""
        return self.empty(len(x)).copy_(x)


def count_non_finite(x: Tensor) -> int:
    """How many values of ``x`` are infinite or not a number; one pass when there are none."""
    return 0 if all_finite(x) else int((~torch.isfinite(x)).sum())


def squared_norm(x: Tensor) -> float:
    """The squared Euclidean norm of ``x`` [n], by slices, so that long sums keep their digits (a norm of 2^27
    equal values in fp32 is off by half a percent); in fp64 where fp32 overflows."""
    total = 0.0
    for span in spans(x):
        part = x[span]
        square = float(torch.dot(part, part))
        total += square if math.isfinite(square) else float(part.double().square_().sum())
    return total


class Scratch:
    """One reusable tensor per device."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._tensors: dict[torch.device, Tensor] = {}

    def of(self, n: int, device: torch.device) -> Tensor:
        """An uninitialised tensor [n]; valid until the next call."""
        held = self._tensors.get(device)
        if held is None or len(held) < n:
            held = self._tensors[device] = torch.empty(n, dtype=self._dtype, device=device)
        return held[:n]


def slice_of(x: Tensor) -> int:
    """Elements of ``x`` to work on at once: few on a CPU, all on an accelerator."""
    return SLICE if x.device.type == "cpu" else max(1, len(x))


def spans(x: Tensor) -> Iterator[slice]:
    """Slices of a vector that suit its device: small on a CPU, one on an accelerator."""
    step = slice_of(x)
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def bytes_of(x: Tensor) -> memoryview:
    """The raw bytes of a tensor: its own memory if it is contiguous on the CPU, else a copy."""
    if not x.numel():  # a memoryview of no elements cannot be cast
        return memoryview(bytearray())
    if x.dtype != torch.float32 or x.requires_grad or x.device.type != "cpu" or not x.is_contiguous():
        x = x.detach().cpu().contiguous().view(-1).view(torch.uint8)
    # One call of torch, of which each lets the interpreter's lock go.
    return x.numpy().data.cast("B")


def items_of(payload: Buffer, dtype: torch.dtype) -> Tensor:
    """The items of ``payload`` on the CPU, to be read only: in place if its memory is writable and aligned,
    as that of received frames is, else copied (torch warns of read-only memory and needs alignment)."""
    raw: npt.NDArray[np.uint8] = np.frombuffer(payload, dtype=np.uint8)
    if len(raw) and raw.flags.writeable and raw.ctypes.data % dtype.itemsize == 0:
        return torch.from_numpy(raw).view(dtype)
    items = torch.empty(len(raw) // dtype.itemsize, dtype=dtype)
    fill(items, payload)
    return items


def fill(out: Tensor, payload: Buffer) -> None:
    """Copy raw bytes into ``out``. Through numpy, because torch warns of read-only memory and needs
    alignment, and a payload may have neither."""
    target = out if out.device.type == "cpu" else torch.empty_like(out, device="cpu")
    raw: npt.NDArray[np.uint8] = np.frombuffer(payload, dtype=np.uint8)
    np.copyto(target.view(torch.uint8).numpy(), raw)
    if target is not out:
        out.copy_(target)


def all_finite(x: Tensor) -> bool:
    """Whether no value of ``x`` is infinite or not a number. Either makes the sum so too; a sum of finite
    values may overflow, and only then their extremes, which take twice as long, are looked at."""
    if not x.numel() or math.isfinite(float(x.sum())):
        return True
    low, high = torch.aminmax(x)  # not-a-number propagates, and then compares false
    return float(low) > -math.inf and float(high) < math.inf
