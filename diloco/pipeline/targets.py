"""What a feeder sends to the last stage beside the boundaries: the targets of one microbatch, as integers.

Owns their bytes: 32 bits each, little-endian, in the order of the tensor. The shape is agreed on before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diloco.errors import BoundaryError, PipelineError
from transport.effects import Payload, Phantom

_BYTES = 4
_LEAST, _MOST = -(1 << 31), (1 << 31) - 1


def targets_bytes(shape: tuple[int, ...]) -> int:
    """Of one microbatch."""
    return math.prod(shape) * _BYTES


def encode_targets(targets: Tensor, shape: tuple[int, ...]) -> bytes:
    """The bytes of ``targets``. Raises `PipelineError` for another shape, fractions, and numbers that take
    more than 32 bits."""
    if tuple(targets.shape) != shape or targets.is_floating_point() or targets.is_complex():
        raise PipelineError(
            f"targets are {list(targets.shape)} {str(targets.dtype).removeprefix('torch.')}, and this run's"
            f" are integers of shape {list(shape)}"
        )
    if targets.numel() and not _LEAST <= int(targets.min()) <= int(targets.max()) <= _MOST:
        raise PipelineError(f"targets from {targets.min()} to {targets.max()} do not fit into 32 bits")
    return targets.detach().cpu().contiguous().to(torch.int32).numpy().astype("<i4").tobytes()


def decode_targets(payload: Payload, shape: tuple[int, ...]) -> Tensor:
    """int64 of that shape. Raises `BoundaryError` for another number of bytes."""
    assert not isinstance(payload, Phantom), "phantoms are for simulations"
    if len(payload) != targets_bytes(shape):
        raise BoundaryError(f"targets take {len(payload)} bytes instead of {targets_bytes(shape)}")
    return torch.frombuffer(bytearray(payload), dtype=torch.int32).long().view(shape)
