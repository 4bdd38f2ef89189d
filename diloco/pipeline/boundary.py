"""A boundary: what one tensor between two stages must be.

Owns its shape and dtype, which are the same for all microbatches of a run, and the refusal of any other
tensor, and of one with a value that is not finite (S12). Moves nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diloco.compression.vectors import count_non_finite
from diloco.errors import BoundaryError, PipelineError
from diloco.outer.layout import TRAINABLE_DTYPES


@dataclass(frozen=True, slots=True)
class Boundary:
    """The activations of one microbatch between two stages, and the gradients that come back for them.
    ``shape`` is that of the tensor that a part's forward returns and the next one's takes, sequences first:
    [sequences, positions, width] of a decoder. With ``ids`` the last column are whole numbers from 0 on below
    that, tokens say, which travel as such, exactly, and have no gradient. Raises `PipelineError` for a shape
    without elements, a dtype that is not float32, bfloat16 or float16, and ids that it cannot tell apart."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    ids: int = 0

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise PipelineError(f"a boundary of shape {list(self.shape)} has no elements")
        if self.dtype not in TRAINABLE_DTYPES:
            raise PipelineError(f"a boundary of {_name(self.dtype)} carries no gradients: choose float32")
        if not self.ids:
            return
        if self.columns < 2:
            raise PipelineError("a boundary of ids alone carries no gradients: it needs a column more")
        if not 0 < self.ids <= (most := round(2 / torch.finfo(self.dtype).eps)):
            raise PipelineError(f"{_name(self.dtype)} tells ids below {most} apart, and not {self.ids}")

    @property
    def rows(self) -> int:
        """Of the matrix that travels: all dimensions but the last."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Of that matrix: the last dimension."""
        return self.shape[-1]

    @property
    def num_values(self) -> int:
        """Columns that have a gradient: all but that of ids."""
        return self.columns - (self.ids > 0)

    def __str__(self) -> str:
        return f"{list(self.shape)} {_name(self.dtype)}" + (f" with ids below {self.ids}" if self.ids else "")

    def require(self, x: object, what: str) -> Tensor:
        """``x`` itself. Raises `BoundaryError` if it is no tensor of this shape and dtype, or has a value
        that is not finite; ``what`` begins the sentence."""
        if not isinstance(x, Tensor):
            raise BoundaryError(f"{what} is of type {type(x).__name__}, not one tensor")
        if tuple(x.shape) != self.shape or x.dtype != self.dtype:
            raise BoundaryError(f"{what} is {list(x.shape)} {_name(x.dtype)}, and the boundary is {self}")
        if bad := count_non_finite(x.detach()):
            raise BoundaryError(f"{what} has {bad} of {x.numel()} values that are not finite")
        if self.ids and (bad := self._count_no_ids(x.detach()[..., -1])):
            raise BoundaryError(f"{what} has {bad} ids that are no whole numbers from 0 to {self.ids - 1}")
        return x

    def _count_no_ids(self, column: Tensor) -> int:
        return int(((column < 0) | (column >= self.ids) | (column != column.floor())).sum())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
