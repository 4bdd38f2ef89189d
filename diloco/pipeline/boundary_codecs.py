"""What a boundary's tensors are on the wire: activations up, and their gradients down.

Owns which format each direction has, how gradients are rounded, and the refusal of bytes and of values that
do not fit. Sizes follow from the boundary and the formats alone, never from what came. Whoever receives goes
on with what it decoded, for forward, recompute and backward. Activations are rounded to nearest, gradients of
formats with blocks up or down by chance, seeded by the run, the microbatch and the stage, so that the same
gradient is the same bytes again. Moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diloco.compression.row_codecs import CPU, ROW_CODECS, row_codec
from diloco.compression.vectors import Buffer
from diloco.errors import BoundaryError, CodecError, PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.microbatch import MicrobatchId, random_seed

BOUNDARY_CODECS = tuple(ROW_CODECS)
"""Names of the formats, the most exact first."""
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
        self._size = boundary.rows, boundary.columns
        self.activation_bytes = self._up.size_bytes(*self._size)
        """Of one microbatch, up."""
        self.gradient_bytes = self._down.size_bytes(*self._size)
        """Of one microbatch, down."""

    def encode_activation(self, x: Tensor, microbatch: MicrobatchId) -> Buffer:
        """The bytes of what a stage made, which may be its own memory. Raises `BoundaryError` for a tensor
        that is not the boundary's, and for a value that is not finite or too large for the format."""
        with _refusing(what := f"the activation of {microbatch}"):
            return self._up.encode(self._matrix(x, what))

    def decode_activation(
        self, payload: Buffer, microbatch: MicrobatchId, device: torch.device = CPU
    ) -> Tensor:
        """What the stage above goes on with, in memory of its own. Raises `BoundaryError` for a wrong size
        and for a value that is not finite."""
        with _refusing(what := f"the activation of {microbatch}"):
            return self._shaped(self._up.decode(payload, *self._size, device), what)

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
            return self._shaped(self._down.decode(payload, *self._size, device), what)

    def _matrix(self, x: Tensor, what: str) -> Tensor:
        return self.boundary.require(x, what).detach().reshape(self._size).float()

    def _shaped(self, found: Tensor, what: str) -> Tensor:
        x = found.view(self.boundary.shape).to(self.boundary.dtype)
        # What was finite in fp32 may not be in a shorter format.
        return x if x.dtype == torch.float32 else self.boundary.require(x, what)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Within, whatever a format refuses is told as the boundary's fault."""
    try:
        yield
    except CodecError as error:
        raise BoundaryError(f"{what}: {error}") from error
