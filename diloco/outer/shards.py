"""Tensors of which a process has a part: DTensors, as `fully_shard` makes parameters.

Owns telling them from others and finding the part that is here. Owns no way to the parts elsewhere, and asks
nobody: nothing here is a collective. Torch's module for them is not imported, so that who has none pays
nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has but a part of it, or has it by way of a mesh."""
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def local_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, detached and in place: all of it, if it is an ordinary one."""
    if not is_sharded(tensor):
        return tensor.detach()
    with torch.no_grad():
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part.detach()
