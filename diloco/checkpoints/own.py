"""What is one worker's own, as a file of a checkpoint: everything that has a state dict, by a name.

Owns neither the objects nor when they are taken: see `sources` and `keeper`. Tensors are copied when the
state is taken, on the thread that trains; the file is written later by another.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from diloco.checkpoints.local_disk import reading
from diloco.checkpoints.manifest import OWN_FILE, OwnEntry
from diloco.checkpoints.store import Content, Saved
from diloco.checkpoints.tensor_file import TensorPlace, header_bytes, read_header, read_tensor
from diloco.checkpoints.trees import pack, unpack
from diloco.compression.vectors import bytes_of
from diloco.errors import CheckpointError
from transport.digests import hasher
from transport.disk import Disk
from transport.limits import LIMITS

_LOG = logging.getLogger("diloco")


class Stateful(Protocol):
    """What torch's schedulers, scalers and optimizers have, and StatefulDataLoader of torchdata."""

    def state_dict(self) -> Any:
        """Its state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Go on from there."""


class Own(Protocol):
    """What is the worker's own."""

    @property
    def entry(self) -> OwnEntry | None:
        """How far it is; None while it should not be kept."""

    def take(self) -> Content:
        """A copy of it. Raises `StateError` for what cannot be kept."""

    def take_up(self, disk: Disk, saved: Saved) -> None:
        """Go on from that of a checkpoint. Raises `CheckpointError`, before anything changes."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """Copies that nobody changes."""

    text: str
    tensors: dict[str, Tensor]


class OwnState:
    """The ``sources`` of one worker, in the order in which they are taken up."""

    def __init__(self, sources: Mapping[str, Stateful]) -> None:
        self._sources = dict(sources)

    def check(self) -> None:
        """Raise `StateError` for what cannot be kept, by its place."""
        for name, source in self._sources.items():
            pack(source.state_dict(), name, {})

    def take(self) -> Content:
        """A copy of all as it is now, as a file. Raises `StateError`."""
        tensors: dict[str, Tensor] = {}
        packed = {name: pack(source.state_dict(), name, tensors) for name, source in self._sources.items()}
        copies = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        places = [TensorPlace.of(name, tensor) for name, tensor in copies.items()]
        header = header_bytes(places, {"state": json.dumps(packed)})
        size = len(header) + sum(place.size_bytes for place in places)

        def pieces() -> Iterator[bytes | memoryview]:
            yield header
            for tensor in copies.values():
                whole = bytes_of(tensor)
                for at in range(0, len(whole), LIMITS.payload_bytes):
                    yield whole[at : at + LIMITS.payload_bytes]

        return Content(OWN_FILE, size, pieces)

    def take_up(self, disk: Disk, saved: Saved) -> None:
        """Go on from what a checkpoint keeps. What it lacks, or what does not fit, begins anew, and that is
        said. Raises `CheckpointError`, before anything changes, for a file that is damaged."""
        kept = read_own(disk, saved)
        for name, source in self._sources.items():
            if name not in kept:
                _LOG.warning("the checkpoint does not keep %s: it begins anew", name)
                continue
            try:
                source.load_state_dict(kept[name])
                # A data loader makes its iterator here, which draws a seed: before the generators are back.
                source.state_dict()
            except Exception as error:  # its class is its owner's affair, and so is what it raises
                _LOG.warning("%s does not take what was kept of it, and begins anew: %s", name, error)
        for name in sorted(kept.keys() - self._sources.keys()):
            _LOG.warning("the checkpoint keeps %s, which is not asked for here: it is left out", name)


def read_own(disk: Disk, saved: Saved) -> dict[str, Any]:
    """What a checkpoint keeps of its worker, by the names of its parts. Raises `CheckpointError`."""
    path, entry = f"{saved.path}/{OWN_FILE}", saved.manifest.file(OWN_FILE)
    whole = hasher()
    with reading(path):
        for at in range(0, entry.size_bytes, LIMITS.payload_bytes):
            whole.update(disk.read(path, at, LIMITS.payload_bytes))
        if whole.hexdigest() != entry.digest:
            raise CheckpointError(f"{path} is damaged: its digest is another one than the manifest says")
        header = read_header(disk, path)
        tensors = {name: read_tensor(disk, path, header, name) for name in header.places}
    packed = json.loads(header.metadata.get("state", "null"))
    if not isinstance(packed, dict):
        raise CheckpointError(f"{path} keeps no state of a worker")
    return {name: unpack(each, tensors) for name, each in packed.items()}
