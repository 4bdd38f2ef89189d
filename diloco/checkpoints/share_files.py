"""Which shares of states a disk has: read once, when its worker begins.

Each file is hashed whole and compared with its manifest and the agreed digest; what is damaged is left out
and named. Frozen parameters that a file only names come from the model, which must have the same ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from diloco.checkpoints.fragment_files import read_state
from diloco.checkpoints.manifest import fragment_file
from diloco.checkpoints.parts import Parts, StoredState
from diloco.checkpoints.store import Saved
from diloco.checkpoints.tensor_file import read_header
from diloco.errors import CheckpointError
from diloco.outer.replica import TensorReplica
from diloco.outer.snapshot import FrozenTail
from peers.protocol.application import StateBlob
from peers.protocol.shares import Part
from transport.disk import Disk
from transport.effects import Payload

_LOG = logging.getLogger("diloco")


def read_parts(disk: Disk, found: Iterable[Saved], replica: TensorReplica) -> Parts:
    """Those of some checkpoints, the newest first."""
    parts = Parts()
    for saved in found:
        states: dict[int, StateBlob] = {}
        for fragment in sorted(saved.manifest.here):
            try:
                states[fragment] = _stored(disk, saved, fragment, replica)
            except CheckpointError as error:
                _LOG.warning("%s; it is left out", error)
        parts.add(Part(saved.manifest.held(), frozenset(states)), states)
    return parts


def _stored(disk: Disk, saved: Saved, fragment: int, replica: TensorReplica) -> StoredState:
    is_named = bool(saved.manifest.named_only) and fragment == replica.num_fragments - 1
    tail = replica.frozen_tail(fragment) if is_named else FrozenTail(b"", [])
    size, end = 0, b""

    def take(index: int, piece: bytes, digest: bytes) -> None:
        nonlocal size, end
        size, end = size + len(piece), (end + piece)[-len(tail.head) :] if tail.head else b""

    digests = read_state(disk, saved, fragment, take)
    path = f"{saved.path}/{fragment_file(fragment)}"
    if is_named and (end != tail.head or digests[len(digests) - len(tail.digests) :] != tail.digests):
        raise CheckpointError(f"{path} is of another base model: frozen parameters differ from this model's")
    trained = size - len(tail.head)

    def frozen(at: int, length: int) -> Payload:
        return replica.frozen_view(fragment).read(at - trained, length)

    return StoredState(disk, path, read_header(disk, path).body, size, digests, frozen)
