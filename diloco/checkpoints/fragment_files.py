"""A fragment's shared state as a safetensors file, and back into a replica.

The tensors' bytes in the file are those of the fragment's `StateView`, in the same order, so that its agreed
digest is the tree digest of the file's body. Frozen parameters that are the base model's own are left out:
in their place are the bytes that fill up the piece before them, and the digests of the pieces that they are.
Owns the names: ``count``, ``theta/NAME``, ``buffer0/NAME``, ``shared/NAME``, ``projection``, ``frozen/NAME``
or ``frozen_head`` and ``frozen_digests``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch

from diloco.checkpoints.local_disk import reading
from diloco.checkpoints.manifest import Manifest, TensorEntry, fragment_file
from diloco.checkpoints.store import Content, Saved
from diloco.checkpoints.tensor_file import TensorPlace, header_bytes, read_header
from diloco.errors import CheckpointError
from diloco.outer.incoming import IncomingState
from diloco.outer.replica import TensorReplica
from diloco.outer.snapshot import FrozenTail, require_size
from transport.digests import digest_of, hasher, tree_digest
from transport.disk import Disk
from transport.limits import LIMITS

_HEAD, _DIGESTS = "frozen_head", "frozen_digests"


def fragment_content(replica: TensorReplica, fragment: int, *, whole: bool) -> Content:
    """The file of a fragment as it is now; ``whole``: with the frozen parameters' values."""
    if whole or not _has_frozen(replica, fragment):
        made, view = places(replica, fragment), replica.pin(fragment)
    else:
        tail = replica.frozen_tail(fragment)
        named = {_HEAD: tail.head, _DIGESTS: b"".join(tail.digests)}
        made = [*_trained_places(replica, fragment)]
        made += [TensorPlace(name, torch.uint8, (len(each),)) for name, each in named.items()]
        view = replica.outer.pin(fragment).followed_by([memoryview(each) for each in named.values()])
    header = header_bytes(made)

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        yield from view.pieces()

    return Content(fragment_file(fragment), len(header) + view.size_bytes, pieces)


def _has_frozen(replica: TensorReplica, fragment: int) -> bool:
    return fragment == replica.num_fragments - 1 and bool(replica.layout.frozen)


def vectors_of(replica: TensorReplica, fragment: int) -> tuple[str, ...]:
    """What a fragment's state is made of, in this order, each of the fragment's length."""
    components = replica.outer.components(fragment)
    buffers = [f"buffer{i}" for i in range(components.optimizers.num_buffers)]
    return ("theta", *buffers, *(["shared"] if components.feedback.shared else []))


def places(replica: TensorReplica, fragment: int) -> list[TensorPlace]:
    """What a fragment's state is made of, in the order of its bytes."""
    frozen = replica.layout.frozen if _has_frozen(replica, fragment) else ()
    behind = [TensorPlace(f"frozen/{spec.name}", spec.dtype, spec.shape) for spec in frozen]
    return [*_trained_places(replica, fragment), *behind]


def _trained_places(replica: TensorReplica, fragment: int) -> Iterator[TensorPlace]:
    yield TensorPlace("count", torch.int64, ())
    specs = replica.layout.fragments[fragment]
    for vector in vectors_of(replica, fragment):
        for spec in specs:
            yield TensorPlace(f"{vector}/{spec.name}", torch.float32, spec.shape)
    projection = len(replica.outer.projection_state(fragment))
    yield TensorPlace("projection", torch.float32, (projection,))


def load_state(disk: Disk, saved: Saved, replica: TensorReplica) -> None:
    """Put a saved state into ``replica``. All files are read and checked before anything changes: half a
    state is worse than none. Raises `CheckpointError`, `OtherBase` if frozen parameters that no file holds
    are others in ``replica``, and `StateError` if the state is another model's; nothing has changed then."""
    last = replica.num_fragments - 1 if saved.manifest.named_only else None
    every = range(replica.num_fragments)
    saved.manifest.require_whole(saved.path)
    states = [_read_into_room(disk, saved, replica, fragment, named=fragment == last) for fragment in every]
    for fragment, incoming in enumerate(states):
        if fragment == last:
            replica.load_trained(fragment, incoming)
        else:
            replica.load(fragment, incoming)


def _read_into_room(
    disk: Disk, saved: Saved, replica: TensorReplica, fragment: int, *, named: bool
) -> IncomingState:
    """A fragment's state in memory that it may stay in; ``named``: without frozen parameters, which the file
    only names, and which are those of ``replica``."""
    incoming = replica.outer.room(fragment) if named else replica.state_buffer(fragment)
    size, sizes, behind = len(incoming), list[int](), bytearray()

    def take(index: int, piece: bytes, digest: bytes) -> None:
        at = index * LIMITS.payload_bytes
        inside = max(0, size - at)
        if inside:
            incoming.write(at, memoryview(piece)[:inside])
        behind.extend(memoryview(piece)[inside:])
        sizes.append(len(piece))

    digests = read_state(disk, saved, fragment, take)
    require_size(sum(sizes) - (len(behind) if named else 0), size, fragment)
    tail = replica.frozen_tail(fragment) if named else FrozenTail(b"", [])
    others = digests[len(digests) - len(tail.digests) :]
    if named and (bytes(behind) != tail.head or others != tail.digests):
        ours, theirs = replica.model.frozen_digests.by_name(), saved.manifest.named_only
        raise OtherBase(saved.path, [name for name in theirs if theirs[name] != ours.get(name)])
    incoming.name_pieces(digests)
    return incoming


class OtherBase(CheckpointError):
    """A checkpoint names frozen parameters that this model has otherwise."""

    def __init__(self, path: str, names: list[str]) -> None:
        which = f"{len(names)} frozen parameters, {names[0]} say," if names else "frozen parameters"
        super().__init__(f"{path} is of another base model: {which} differ from those of this model")


def read_state(
    disk: Disk, saved: Saved, fragment: int, take: Callable[[int, bytes, bytes], None]
) -> list[bytes]:
    """The digests of the pieces of a fragment's state as its donors hand it out, frozen parameters that are
    only named among them. ``take(index, piece, digest)`` is given what the file holds. Checked against the
    file's digest and the agreed one: raises `CheckpointError`, when pieces were given already."""
    name = fragment_file(fragment)
    path, entry = f"{saved.path}/{name}", saved.manifest.file(name)
    digests: list[bytes] = []
    with reading(path):
        header = read_header(disk, path)
        whole = hasher()
        whole.update(disk.read(path, 0, header.body))
        end = header.places[_DIGESTS][1] if _DIGESTS in header.places else entry.size_bytes
        for at in range(header.body, end, LIMITS.payload_bytes):
            piece = disk.read(path, at, min(LIMITS.payload_bytes, end - at))
            whole.update(piece)
            digests.append(digest_of(piece))
            take(len(digests) - 1, piece, digests[-1])
        listed = disk.read(path, end, entry.size_bytes - end)
        whole.update(listed)
        digests += [listed[at : at + 32] for at in range(0, len(listed), 32)]
    if whole.hexdigest() != entry.digest:
        raise CheckpointError(f"{path} is damaged: its digest is another one than the manifest says")
    if tree_digest(digests).hex() != saved.manifest.fragments[fragment].digest:
        named = "its manifest names" if saved.manifest.replica else "the members agreed on"
        raise CheckpointError(f"{path} holds another state than {named}")
    return digests


def read_body(disk: Disk, saved: Saved, fragment: int) -> bytearray:
    """What a file holds of a fragment's state, checked as by `read_state`."""
    data = bytearray()
    read_state(disk, saved, fragment, lambda index, piece, digest: data.extend(piece))
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
    theirs = {each.name: each.model_copy(update={"digest": None}) for each in manifest.tensors}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(f"the checkpoint is of another model: {name} differs")


def tensor_entries(
    replica: TensorReplica, named: Mapping[str, str] = MappingProxyType({})
) -> tuple[TensorEntry, ...]:
    """The model's parameters, for a manifest; ``named`` are digests of those that the files do not hold."""
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
            name=each.name,
            shape=each.shape,
            dtype=str(each.dtype).removeprefix("torch."),
            fragment=-1,
            digest=named.get(each.name),
        )
        for each in layout.frozen
    ]
    return (*of_fragments, *frozen)
