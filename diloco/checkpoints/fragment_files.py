"""A fragment's shared state as a safetensors file, and back into a replica.

The tensors' bytes in the file are those of the fragment's `StateView`, in the same order, so that its agreed
digest is the tree digest of the file's body. Owns the names: ``count``, ``theta/NAME``, ``buffer0/NAME``,
``shared/NAME``, ``projection``, ``frozen/NAME``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch

from diloco.checkpoints.manifest import Manifest, TensorEntry, fragment_file
from diloco.checkpoints.store import Content, Saved
from diloco.checkpoints.tensor_file import TensorPlace, header_bytes, read_header
from diloco.errors import CheckpointError
from diloco.outer.replica import TensorReplica
from diloco.outer.snapshot import StateView
from transport.digests import tree_digest
from transport.disk import Disk
from transport.limits import LIMITS


def fragment_content(replica: TensorReplica, fragment: int, view: StateView) -> Content:
    """The file of a fragment, whose state ``view`` shows."""
    header = header_bytes(places(replica, fragment))

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        yield from view.pieces()

    return Content(fragment_file(fragment), len(header) + view.size_bytes, pieces)


def vectors_of(replica: TensorReplica, fragment: int) -> tuple[str, ...]:
    """What a fragment's state is made of, in this order, each of the fragment's length."""
    components = replica.outer.components(fragment)
    buffers = [f"buffer{i}" for i in range(components.optimizers.num_buffers)]
    return ("theta", *buffers, *(["shared"] if components.feedback.shared else []))


def places(replica: TensorReplica, fragment: int) -> Iterator[TensorPlace]:
    """What a fragment's state is made of, in the order of its bytes."""
    yield TensorPlace("count", torch.int64, ())
    specs = replica.layout.fragments[fragment]
    for vector in vectors_of(replica, fragment):
        for spec in specs:
            yield TensorPlace(f"{vector}/{spec.name}", torch.float32, spec.shape)
    projection = len(replica.outer.projection_state(fragment))
    yield TensorPlace("projection", torch.float32, (projection,))
    if fragment == replica.num_fragments - 1:
        for spec in replica.layout.frozen:
            yield TensorPlace(f"frozen/{spec.name}", spec.dtype, spec.shape)


def load_fragment(disk: Disk, saved: Saved, fragment: int, replica: TensorReplica) -> None:
    """Put a fragment's saved state into ``replica``. Raises `CheckpointError` if the file is damaged, and
    `StateError` if it is another model's; nothing has changed then."""
    data = read_body(disk, saved, fragment)
    replica.load(fragment, data)


def read_body(disk: Disk, saved: Saved, fragment: int) -> bytearray:
    """A fragment's state as its donors hand it out, checked against the file's SHA-256 and the agreed digest.
    Raises `CheckpointError`."""
    name = fragment_file(fragment)
    path, entry = f"{saved.path}/{name}", saved.manifest.file(name)
    try:
        body = read_header(disk, path).body
        whole = hashlib.sha256(disk.read(path, 0, body))
        data = bytearray(entry.size_bytes - body)
        digests, piece_bytes = [], LIMITS.payload_bytes
        for offset in range(0, len(data), piece_bytes):
            piece = disk.read(path, body + offset, piece_bytes)
            whole.update(piece)
            digests.append(hashlib.sha256(piece).digest())
            data[offset : offset + len(piece)] = piece
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if whole.hexdigest() != entry.sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is another one than the manifest says")
    if tree_digest(digests).hex() != saved.manifest.fragments[fragment].digest:
        raise CheckpointError(f"{path} holds another state than the members agreed on")
    return data


def require_fit(manifest: Manifest, replica: TensorReplica) -> None:
    """Refuse a checkpoint of another model or method. Raises `CheckpointError`."""
    if len(manifest.fragments) != replica.num_fragments:
        raise CheckpointError(
            f"the checkpoint has {len(manifest.fragments)} fragments, this run {replica.num_fragments}"
        )
    for fragment, entry in enumerate(manifest.fragments):
        if entry.vectors != (found := vectors_of(replica, fragment)):
            raise CheckpointError(
                f"the checkpoint holds {', '.join(entry.vectors)} of fragment {fragment}, this run's method"
                f" has {', '.join(found)}"
            )
    ours = {each.name: each for each in tensor_entries(replica)}
    theirs = {each.name: each for each in manifest.tensors}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(f"the checkpoint is of another model: {name} differs")


def tensor_entries(replica: TensorReplica) -> tuple[TensorEntry, ...]:
    """The model's parameters, for a manifest."""
    layout = replica.layout
    of_fragments = [
        TensorEntry(
            name=each.name, shape=each.shape, dtype=str(each.dtype).removeprefix("torch."), fragment=f
        )
        for f, specs in enumerate(layout.fragments)
        for each in specs
    ]
    frozen = [
        TensorEntry(
            name=each.name, shape=each.shape, dtype=str(each.dtype).removeprefix("torch."), fragment=-1
        )
        for each in layout.frozen
    ]
    return (*of_fragments, *frozen)
