"""Memory of long vectors that is used again, so that no round takes fresh pages.

An operating system clears every page that it gives to a process, which takes longer than a pass of arithmetic
over it. Here a vector's memory is given out again once nothing refers to it: no tensor and no view, no
payload that a link has yet to send, no result that somebody may ask for, no snapshot of a state. Python and
torch count those; nobody hands memory back, and nothing is decided here about who holds what.

Large pages (`MADV_HUGEPAGE`) are not asked for, though passes over them take 10 to 25 % less time: a virtual
machine that gives free ones back to its host gets them anew in six times the time of small ones.
"""

from __future__ import annotations

import mmap
import weakref
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SMALL = 32 * 1024
"""Vectors of fewer elements are left to the allocator, which uses memory of that size again by itself."""

_Values = npt.NDArray[np.float32]


def _empty(n: int) -> _Values:
    values: _Values = torch.empty(n).numpy()
    return values


def _untouched_zeros(n: int) -> _Values:
    """Zeros that the system clears where they are first touched. Torch and bytearrays write theirs at once,
    and numpy asks for large pages, for which Linux may have to move others first."""
    pages = mmap.mmap(-1, 4 * n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype=np.float32)


@dataclass(eq=False, slots=True)
class _Piece:
    """Memory of one vector, and who has it."""

    values: _Values
    lease: weakref.ref[_Values]
    lent_at: int = 0
    """The number of the vector that it was lent for last."""

    @property
    def is_free(self) -> bool:
        return self.lease() is None

    def lend(self, n: int, number: int) -> Tensor:
        """The first ``n`` elements: torch refers to the lease as long as anything refers to them."""
        lease = self.values[:n]
        self.lease, self.lent_at = weakref.ref(lease), number
        return torch.from_numpy(lease)


class VectorMemory:
    """Gives vectors of fp32 on the CPU, from any thread."""

    def __init__(self, patience: int) -> None:
        """Memory goes back to the system when none of the last ``patience`` vectors took it."""
        self._patience = patience
        self._pieces: list[_Piece] = []
        self._num_lent = 0
        self._lock = Lock()

    def empty(self, n: int) -> Tensor:
        """An uninitialised vector [n]."""
        if n < SMALL:
            return torch.empty(n)
        with self._lock:
            return self._lend(n, self._find_free(n) or self._make(_empty(n)))

    def zeros(self, n: int) -> Tensor:
        """A vector [n] of zeros, which takes no memory until it is written."""
        if n < SMALL:
            return torch.zeros(n)
        with self._lock:
            return self._lend(n, self._make(_untouched_zeros(n)))

    @property
    def size_bytes(self) -> int:
        """Of all memory that is lent or waits."""
        return sum(piece.values.nbytes for piece in self._pieces)

    def _find_free(self, n: int) -> _Piece | None:
        """Of the smallest pieces that are free and long enough the one that was used last, so that what there
        is too much of gets old; none of which much would be wasted."""
        fit = [piece for piece in self._pieces if n <= len(piece.values) <= n + n // 2 and piece.is_free]
        return min(fit, key=lambda piece: (len(piece.values), -piece.lent_at), default=None)

    def _lend(self, n: int, piece: _Piece) -> Tensor:
        self._num_lent += 1
        found = piece.lend(n, self._num_lent)
        self._pieces = [each for each in self._pieces if not (each.is_free and self._is_old(each))]
        return found

    def _make(self, values: _Values) -> _Piece:
        made = _Piece(values, weakref.ref(values))
        self._pieces.append(made)
        return made

    def _is_old(self, piece: _Piece) -> bool:
        return self._num_lent - piece.lent_at >= self._patience
