"""The shared model of a site as one file, written by rank 0 from what it has: no other rank is asked.

Owns which tensors are in it; how they are called is the layout's.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from diloco.outer.live_buffers import as_stored
from diloco.outer.plain_names import named_parameters, named_state
from diloco.outer.replica import TensorReplica
from diloco.training.lending import say_what_is_left_out, write_file
from diloco.training.site_tensors import SiteTensors


def write_site(model: nn.Module, replica: TensorReplica, path: Path, *, round_: int, full: bool) -> None:
    """The outer parameters in the dtypes of ``model``, with rank 0's buffers, as `lending.write_model` writes
    those of a model that one process holds."""
    tensors = replica.model
    assert isinstance(tensors, SiteTensors), "a site has them"
    if not full:
        say_what_is_left_out(replica, str(path))
    parameters = {name for name, _ in named_parameters(model, remove_duplicate=False)}
    found = {n: each for n, each in named_state(model).items() if n not in parameters}
    found |= _outer_tensors(replica, tensors)
    found |= tensors.frozen_by_name if full else {}
    order = [name for name in named_state(model) if name in found]
    whole = {name: found[name].detach().cpu().contiguous() for name in order}
    write_file(path, whole, {"round": str(round_)})


def _outer_tensors(replica: TensorReplica, tensors: SiteTensors) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for fragment in replica.shown_fragments:
        theta = replica.outer.outer_parameters(fragment)
        for name, (span, tensor) in tensors.whole(fragment).items():
            found[name] = as_stored(theta[span].view(tensor.shape), tensor).to(tensor.dtype)
    return found
