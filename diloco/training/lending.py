"""The outer parameters in the live model: lent to evaluate or save, and taken back.

Owns no parameters. Between lending and taking back the loop trains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from diloco.checkpoints.sharded import ShardPlace, write_shard
from diloco.checkpoints.tensor_file import TensorPlace, can_be_kept, header_bytes
from diloco.compression.vectors import bytes_of
from diloco.errors import UserError
from diloco.outer.plain_names import named_state
from diloco.outer.replica import TensorReplica

_LOG = logging.getLogger("diloco")


def show_outer(replica: TensorReplica) -> None:
    """The live model holds the outer parameters, where nobody trains on."""
    for fragment in replica.shown_fragments:
        replica.model.show(fragment, replica.outer.outer_parameters(fragment))


class Lent:
    """The live model of ``replica`` with the outer parameters, and the mean of buffers once there is one,
    from when this is made; local ones come back by `take_back`."""

    def __init__(self, replica: TensorReplica) -> None:
        self._live = replica.model.exchanged()
        self._held = [each.detach().clone() for each in self._live]
        show_outer(replica)

    def take_back(self) -> None:
        """Train on from the local parameters."""
        with torch.no_grad():
            for tensor, local in zip(self._live, self._held, strict=True):
                tensor.copy_(local)

    @contextmanager
    def local(self) -> Iterator[None]:
        """Within, the model holds the local parameters; then again what it holds now."""
        shown = [each.detach().clone() for each in self._live]
        self.take_back()
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, values in zip(self._live, shown, strict=True):
                    tensor.copy_(values)


@contextmanager
def lent(model: nn.Module, replica: TensorReplica) -> Iterator[nn.Module]:
    """``model`` with the outer parameters; local ones come back after."""
    borrowed = Lent(replica)
    try:
        yield model
    finally:
        borrowed.take_back()


def write_model(model: nn.Module, replica: TensorReplica, path: Path, *, round_: int, full: bool) -> None:
    """``model`` with the outer parameters as safetensors, tied tensors once; frozen parameters only if it is
    to be ``full``."""
    with lent(model, replica):
        tensors = _tensors_of(model, replica, str(path), full=full)
        write_file(path, tensors, {"round": str(round_)})


def write_part(
    model: nn.Module, replica: TensorReplica, place: ShardPlace, *, round_: int, full: bool
) -> None:
    """The same of a stage's part, as one file of a sharded set."""
    with lent(model, replica):
        tensors = _tensors_of(model, replica, str(place.path), full=full)
        is_whole = write_shard(place, tensors, index=round_)
    if not is_whole:
        _LOG.warning(
            "%s has stage %d of %d: diloco assemble puts the files of all stages together",
            place.path,
            place.stage,
            place.stages,
        )


def write_file(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Equal tensors make equal bytes: the library orders what is said about a file as it happens."""
    for name, tensor in tensors.items():
        if not can_be_kept(tensor.dtype):
            raise UserError(f"{name} is {tensor.dtype}, which a safetensors file cannot hold")
    with Path(path).open("wb") as file:
        file.write(header_bytes([TensorPlace.of(*each) for each in tensors.items()], about))
        for tensor in tensors.values():
            file.write(bytes_of(tensor))


def _tensors_of(model: nn.Module, replica: TensorReplica, path: str, *, full: bool) -> dict[str, Tensor]:
    """On the CPU these are the live parameters themselves."""
    frozen = {spec.name for spec in replica.layout.frozen}
    if not full:
        say_what_is_left_out(replica, path)
    seen: set[int] = set()
    tensors = {}
    for name, tensor in named_state(model).items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        if name in frozen and not full:
            continue
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def say_what_is_left_out(replica: TensorReplica, path: str) -> None:
    """Of a file without frozen parameters, where whoever loads it would have other ones."""
    if replica.model.has_other_frozen:
        _LOG.warning(
            "%s lacks the frozen parameters, and the run's are other ones than this model had by itself: "
            "save(full=True) or --full writes them too",
            path,
        )
