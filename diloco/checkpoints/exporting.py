"""A checkpoint's outer parameters as one safetensors file by the names of the model's `state_dict`.

One tensor at a time is in memory. With a folder of a model in the layout of Hugging Face, tensors get the
dtypes that they have there, and its configuration and tokenizer are put beside, so that it loads as that one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.manifest import OWN_FILE, fragment_file
from diloco.checkpoints.store import Saved
from diloco.checkpoints.tensor_file import Header, TensorPlace, header_bytes, read_header, read_tensor
from diloco.compression.vectors import bytes_of
from diloco.errors import CheckpointError
from diloco.outer.model_tensors import MOMENTS
from transport.disk import Disk

_BUFFERS = "the worker.live.buffers."
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
_MAX_COPIED_BYTES = 256 << 20
"""Of one file beside the weights: a large vocabulary has tens of megabytes."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a tensor of the export is, and as what it is written."""

    path: str
    name: str
    header: Header
    place: TensorPlace


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    num_tensors: int
    num_bytes: int
    left_out: tuple[str, ...]
    """Tensors of the model that it is to be like, which the checkpoint lacks: tied ones, as a rule."""


def export(disk: Disk, saved: Saved, target: Path, like: Path | None = None) -> Exported:
    """Write ``target``. Raises `CheckpointError`, `OSError` for a disk that is full or fails."""
    dtypes = _dtypes_in(like) if like is not None else {}
    sources = list(_sources(disk, saved, dtypes))
    if like is not None:
        _require_alike(sources, dtypes, like)
    metadata = {"record": str(saved.manifest.index), "run": saved.manifest.run}
    out, aside = LocalDisk(target.parent), f".{target.name}.partial"

    def pieces() -> Iterator[bytes | memoryview]:
        yield header_bytes([each.place for each in sources], metadata)
        for each in sources:
            tensor = read_tensor(disk, each.path, each.header, each.name)
            yield bytes_of(tensor.to(each.place.dtype).contiguous())

    try:
        out.write(aside, pieces())
        out.rename(aside, target.name)
    finally:
        out.remove(aside)
    if like is not None:
        _copy_beside(like, target.parent)
    have = {each.place.name for each in sources}
    size = sum(each.place.size_bytes for each in sources)
    return Exported(len(sources), size, tuple(sorted(dtypes.keys() - have)))


def _sources(disk: Disk, saved: Saved, dtypes: dict[str, torch.dtype]) -> Iterator[_Source]:
    """Trained and frozen parameters in the model's own dtypes, and buffers that its state dict has."""
    headers: dict[str, Header] = {}

    def source(file: str, kept_as: str, name: str, dtype: torch.dtype | None) -> _Source:
        path = f"{saved.path}/{file}"
        header = headers.get(path) or headers.setdefault(path, read_header(disk, path))
        if kept_as not in header.places:
            raise CheckpointError(f"{path} has no tensor {kept_as}")
        place, _ = header.places[kept_as]
        wanted = dtypes.get(name) or dtype or place.dtype
        return _Source(path, kept_as, header, TensorPlace(name, wanted, place.shape))

    manifest = saved.manifest
    for each in manifest.tensors:
        if each.name.partition("/")[0] in MOMENTS:
            continue  # AdamW's, which some methods average
        frozen = each.fragment < 0
        fragment = len(manifest.fragments) - 1 if frozen else each.fragment
        kind = "frozen" if frozen else "theta"
        dtype: torch.dtype = getattr(torch, each.dtype)
        yield source(fragment_file(fragment), f"{kind}/{each.name}", each.name, dtype)
    if manifest.own is None:
        return
    for name in _persistent_buffers(disk, saved):
        yield source(OWN_FILE, f"{_BUFFERS}{name}", name, None)


def _persistent_buffers(disk: Disk, saved: Saved) -> list[str]:
    """Those of the worker that wrote the checkpoint: running statistics, say, which are nobody else's."""
    state = json.loads(read_header(disk, f"{saved.path}/{OWN_FILE}").metadata.get("state", "{}"))
    try:
        return list(map(str, state["the worker"]["live"]["persistent"]))
    except (KeyError, TypeError):
        raise CheckpointError(f"{saved.path}/{OWN_FILE} keeps no state of a worker") from None


def _dtypes_in(like: Path) -> dict[str, torch.dtype]:
    """By name, the dtypes of a model's tensors in its folder."""
    disk = LocalDisk(like)
    found: dict[str, torch.dtype] = {}
    files = [name for name in disk.list("") if name.endswith(".safetensors")]
    if not files:
        raise CheckpointError(f"{like} has no safetensors file: name the folder of a model (--like)")
    for name in files:
        found |= {key: place.dtype for key, (place, _) in read_header(disk, name).places.items()}
    return found


def _require_alike(sources: list[_Source], dtypes: dict[str, torch.dtype], like: Path) -> None:
    unknown = [each.place.name for each in sources if each.place.name not in dtypes]
    if unknown:
        raise CheckpointError(
            f"{like} is another model: it lacks {len(unknown)} of {len(sources)} tensors, {unknown[0]} say"
        )


def _copy_beside(like: Path, folder: Path) -> None:
    """Configuration, tokenizer and what else is small and beside the weights."""
    for path in sorted(like.iterdir()):
        small = path.is_file() and path.stat().st_size <= _MAX_COPIED_BYTES
        wanted = small and not path.name.startswith(".") and not path.name.endswith(_NOT_COPIED)
        if wanted and path.resolve().parent != folder.resolve():
            shutil.copyfile(path, folder / path.name)
