"""The outer parameters in the live model: lent to evaluate or save, and taken back.

Owns no parameters. Between lending and taking back the loop trains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from diloco.outer.replica import TensorReplica

_LOG = logging.getLogger("diloco")


@contextmanager
def lent(model: nn.Module, replica: TensorReplica) -> Iterator[nn.Module]:
    """``model`` with the outer parameters; local ones come back after."""
    held = [p.detach().clone() for p in model.parameters()]
    for fragment in range(replica.outer.method.num_fragments):  # moments stay where they are
        replica.model.scatter(fragment, replica.outer.outer_parameters(fragment))
    try:
        yield model
    finally:
        with torch.no_grad():
            for parameter, local in zip(model.parameters(), held, strict=True):
                parameter.copy_(local)


def write_model(model: nn.Module, replica: TensorReplica, path: Path, *, round_: int, full: bool) -> None:
    """``model`` with the outer parameters as safetensors, tied tensors once; frozen parameters only if it is
    to be ``full``."""
    frozen = {spec.name for spec in replica.layout.frozen}
    if replica.model.has_other_frozen and not full:
        _LOG.warning(
            "%s lacks the frozen parameters, and the run's are other ones than this model had by itself: "
            "save(full=True) or --full writes them too",
            path,
        )
    with lent(model, replica):
        seen: set[int] = set()
        tensors = {}
        for name, tensor in model.state_dict().items():
            if tensor.numel() and tensor.data_ptr() in seen:
                continue
            seen.add(tensor.data_ptr())
            if name in frozen and not full:
                continue
            tensors[name] = tensor.detach().cpu().contiguous()
        save_file(tensors, str(path), metadata={"round": str(round_), "format": "pt"})
