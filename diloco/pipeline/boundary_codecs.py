"""What a boundary's tensors are on the wire: activations up, and their gradients down.

Owns which format each direction has, how gradients are rounded, and the refusal of bytes and of values that
do not fit. Ids travel after the values, as integers, and only up. Sizes follow from the boundary and the
formats alone, never from what came. Whoever receives goes on with what it decoded, for forward, recompute and
backward. Activations are rounded to nearest, gradients of formats with blocks up or down by chance, seeded by
the run, the microbatch and the stage, so that the same gradient is the same bytes again. Moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from diloco.compression.codecs.base import require_size
from diloco.compression.row_codecs import CPU, ROW_CODECS, row_codec
from diloco.compression.vectors import Buffer
from diloco.errors import BoundaryError, CodecError, PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.microbatch import MicrobatchId, random_seed

BOUNDARY_CODECS = tuple(ROW_CODECS)
"""Names of the formats, the most exact first."""
_ID_TYPES = (("<u1", 1 << 8), ("<u2", 1 << 16), ("<u4", 1 << 32))
"""How ids travel, up to how many of them there are: the fewest bytes."""
_GRADIENTS = 1
"""Tells the draws of a gradient's rounding from others of the same seed."""


class BoundaryCodec:
    """Both directions of ``boundary``: ``activations`` and ``gradients`` (the same unless said) are one of
    `BOUNDARY_CODECS`. ``seed`` is the run's. Keeps scratch memory: one thread at a time uses it. Raises
    `PipelineError` for another format."""

    def __init__(
        self,
        boundary: Boundary,
        activations: str = "fp32",
        gradients: str | None = None,
        *,
        seed: int = 0,
    ) -> None:
        gradients = activations if gradients is None else gradients
        for what, name in (("activations", activations), ("gradients", gradients)):
            if name not in ROW_CODECS:
                known = ", ".join(BOUNDARY_CODECS)
                raise PipelineError(f"{what} = {name!r} is unknown between stages: choose one of {known}")
        self.boundary = boundary
        self._up, self._down, self._seed = row_codec(activations), row_codec(gradients), seed
        self._size = boundary.rows, boundary.num_values
        self._id_type = np.dtype(next(name for name, end in _ID_TYPES if boundary.ids <= end))
        id_bytes = boundary.rows * self._id_type.itemsize if boundary.ids else 0
        self.activation_bytes = self._up.size_bytes(*self._size) + id_bytes
        """Of one microbatch, up."""
        self.gradient_bytes = self._down.size_bytes(*self._size)
        """Of one microbatch, down."""

    def encode_activation(self, x: Tensor, microbatch: MicrobatchId) -> Buffer:
        """The bytes of what a stage made, which may be its own memory. Raises `BoundaryError` for a tensor
        that is not the boundary's, and for a value that is not finite or too large for the format."""
        with _refusing(what := f"the activation of {microbatch}"):
            values = self._up.encode(self._matrix(x, what))
            return b"".join((values, self._ids(x))) if self.boundary.ids else values

    def decode_activation(
        self, payload: Buffer, microbatch: MicrobatchId, device: torch.device = CPU
    ) -> Tensor:
        """What the stage above goes on with, in memory of its own. Raises `BoundaryError` for a wrong size
        and for a value that is not finite."""
        with _refusing(what := f"the activation of {microbatch}"):
            require_size(payload, self.activation_bytes)
            view, cut = memoryview(payload).cast("B"), self._up.size_bytes(*self._size)
            values = self._up.decode(view[:cut], *self._size, device)
            ids = np.frombuffer(view[cut:], self._id_type).astype(np.float32)
            return self._shaped(values, torch.from_numpy(ids), what)

    def encode_gradient(self, gradient: Tensor, microbatch: MicrobatchId, stage: int) -> Buffer:
        """The same of the gradient that ``stage``, the one above the boundary, made of its input."""
        draws = [random_seed(self._seed, microbatch, stage), _GRADIENTS]
        with _refusing(what := f"the gradient of {microbatch}"):
            return self._down.encode(self._matrix(gradient, what), draws)

    def decode_gradient(
        self, payload: Buffer, microbatch: MicrobatchId, device: torch.device = CPU
    ) -> Tensor:
        """What the stage below the boundary goes on with."""
        with _refusing(what := f"the gradient of {microbatch}"):
            values = self._down.decode(payload, *self._size, device)
            return self._shaped(values, torch.zeros(self.boundary.rows), what)

    def _matrix(self, x: Tensor, what: str) -> Tensor:
        """The columns that have a gradient."""
        checked = self.boundary.require(x, what).detach().reshape(self.boundary.rows, -1)
        return checked[:, : self.boundary.num_values].float()

    def _ids(self, x: Tensor) -> bytes:
        column = x.detach()[..., -1].reshape(-1).to(torch.int64).cpu().numpy()
        return column.astype(self._id_type).tobytes()

    def _shaped(self, values: Tensor, ids: Tensor, what: str) -> Tensor:
        """The boundary's tensor, with these ``ids`` [rows] if it has any."""
        edge = self.boundary
        if edge.ids:
            values = torch.cat((values, ids.to(values.device)[:, None]), 1)
        x = values.view(edge.shape).to(edge.dtype)
        # What was finite in fp32 may not be in a shorter format.
        return x if x.dtype == torch.float32 and not edge.ids else edge.require(x, what)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Within, whatever a format refuses is told as the boundary's fault."""
    try:
        yield
    except CodecError as error:
        raise BoundaryError(f"{what}: {error}") from error
