"""A checkpoint's outer parameters as one safetensors file by the names of the model's `state_dict`.

Frozen parameters are written where all are wanted; those that the checkpoint only names come from the folder
of the base model, and must be what it was trained with. One tensor at a time is in memory. With a folder of a
model in the layout of Hugging Face, tensors get the dtypes that they have there, and its configuration and
tokenizer are put beside, so that it loads as that one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from diloco.checkpoints.local_disk import ANYWHERE, LocalDisk, reading
from diloco.checkpoints.manifest import OWN_FILE, TensorEntry, fragment_file
from diloco.checkpoints.store import Saved
from diloco.checkpoints.tensor_file import Header, TensorPlace, header_bytes, read_header, read_tensor
from diloco.compression.vectors import bytes_of
from diloco.errors import CheckpointError
from diloco.outer.model_tensors import MOMENTS
from transport.digests import digest_of
from transport.disk import Disk

_BUFFERS = "the worker.live.buffers."
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
_MAX_COPIED_BYTES = 256 << 20
"""Of one file beside the weights: a large vocabulary has tens of megabytes."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a tensor of the export is, and as what it is written."""

    disk: Disk
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
    frozen: tuple[str, ...]
    """Frozen parameters that were not wanted."""


def export(
    disk: Disk, saved: Saved, target: Path, like: Path | None = None, *, full: bool = False
) -> Exported:
    """Write ``target``, in a folder that is made if need be; ``full``: frozen parameters too. Raises
    `CheckpointError`, `OSError` for a disk that is full or fails."""
    alike = _headers_in(like) if like is not None else {}
    dtypes = {name: header.places[name][0].dtype for name, (_, header) in alike.items()}
    sources = list(_sources(disk, saved, dtypes))
    frozen = tuple(each.name for each in saved.manifest.tensors if each.fragment < 0)
    if full:
        sources += _frozen_sources(disk, saved, like, alike)
    if like is not None:
        counts = {each.name for each in saved.manifest.tensors if not _dtype(each).is_floating_point}
        theirs = {name: header.places[name][0] for name, (_, header) in alike.items()}
        _require_alike(sources, theirs, like, counts)
    place = {saved.manifest.unit.replace(" ", "_"): str(saved.manifest.index)}
    metadata = {**place, "run": saved.manifest.run}
    out, aside = LocalDisk(target.parent), f".{target.name}.partial"

    def pieces() -> Iterator[bytes | memoryview]:
        yield header_bytes([each.place for each in sources], metadata)
        for each in sources:
            with reading(each.path):
                tensor = read_tensor(each.disk, each.path, each.header, each.name)
            is_count = tensor.is_floating_point() and not each.place.dtype.is_floating_point
            yield bytes_of((tensor.round() if is_count else tensor).to(each.place.dtype).contiguous())

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        out.write(aside, pieces())
        out.rename(aside, target.name)
    finally:
        out.remove(aside)
    if like is not None:
        _copy_beside(like, target.parent)
    have = {each.place.name for each in sources}
    size = sum(each.place.size_bytes for each in sources)
    left_out = frozen if not full else ()
    return Exported(len(sources), size, tuple(sorted(dtypes.keys() - have - {*left_out})), left_out)


def _sources(disk: Disk, saved: Saved, dtypes: dict[str, torch.dtype]) -> Iterator[_Source]:
    """Trained parameters in the model's own dtypes, and buffers that its state dict has."""
    headers: dict[str, Header] = {}

    def source(file: str, kept_as: str, name: str, dtype: torch.dtype | None) -> _Source:
        path = f"{saved.path}/{file}"
        with reading(path):
            header = headers.get(path) or headers.setdefault(path, read_header(disk, path))
        if kept_as not in header.places:
            raise CheckpointError(f"{path} has no tensor {kept_as}")
        place, _ = header.places[kept_as]
        wanted = dtypes.get(name) or dtype or place.dtype
        return _Source(disk, path, kept_as, header, TensorPlace(name, wanted, place.shape))

    manifest = saved.manifest
    averaged: set[str] = set()
    for each in manifest.tensors:
        if each.fragment < 0 or each.name.partition("/")[0] in MOMENTS:
            continue  # frozen, or AdamW's, which some methods average
        if each.fragment == manifest.buffers:
            if not manifest.has_mean_buffers:
                continue  # as the run began with them: the worker's own are later
            averaged.add(each.name)
        dtype = _dtype(each)
        yield source(fragment_file(each.fragment), f"theta/{each.name}", each.name, dtype)
    if manifest.own is None:
        return
    for name in [each for each in _persistent_buffers(disk, saved) if each not in averaged]:
        yield source(OWN_FILE, f"{_BUFFERS}{name}", name, None)


def _dtype(entry: TensorEntry) -> torch.dtype:
    found: torch.dtype = getattr(torch, entry.dtype)
    return found


def _persistent_buffers(disk: Disk, saved: Saved) -> list[str]:
    """Those of the worker that wrote the checkpoint: running statistics, say, which are nobody else's."""
    state = json.loads(read_header(disk, f"{saved.path}/{OWN_FILE}").metadata.get("state", "{}"))
    try:
        return list(map(str, state["the worker"]["live"]["persistent"]))
    except (KeyError, TypeError):
        raise CheckpointError(f"{saved.path}/{OWN_FILE} keeps no state of a worker") from None


def _frozen_sources(
    disk: Disk, saved: Saved, like: Path | None, alike: dict[str, tuple[str, Header]]
) -> Iterator[_Source]:
    """Frozen parameters, from the checkpoint if it holds them, else from the base model's folder."""
    file = f"{saved.path}/{fragment_file(len(saved.manifest.fragments) - 1)}"
    header = read_header(disk, file)
    for each in saved.manifest.tensors:
        dtype = _dtype(each)
        if each.fragment >= 0:
            continue
        if each.digest is None:
            wanted = alike[each.name][1].places[each.name][0].dtype if each.name in alike else dtype
            place = TensorPlace(each.name, wanted, each.shape)
            yield _Source(disk, file, f"frozen/{each.name}", header, place)
            continue
        if like is None:
            raise CheckpointError(
                f"{saved.path} only names frozen parameters, {each.name} say: say where the base model is "
                "(--like FOLDER)"
            )
        if each.name not in alike:
            raise CheckpointError(f"{like} is another model: it lacks the frozen parameter {each.name}")
        path, of_base = alike[each.name]
        with reading(path):
            value = read_tensor(ANYWHERE, path, of_base, each.name).to(dtype).contiguous()
        if tuple(value.shape) != each.shape or digest_of(bytes_of(value)).hex() != each.digest:
            raise CheckpointError(f"{like} is another base model: its {each.name} has other values")
        yield _Source(ANYWHERE, path, each.name, of_base, of_base.places[each.name][0])


def _headers_in(like: Path) -> dict[str, tuple[str, Header]]:
    """By name, the file in a model's folder that holds a tensor, and its header."""
    found: dict[str, tuple[str, Header]] = {}
    with reading(like):
        files = sorted(str(path) for path in like.iterdir() if path.suffix == ".safetensors")
    if not files:
        raise CheckpointError(f"{like} has no safetensors file: name the folder of a model (--like)")
    for path in files:
        with reading(path):
            header = read_header(ANYWHERE, path)
        found |= dict.fromkeys(header.places, (path, header))
    return found


def _require_alike(
    sources: list[_Source], theirs: dict[str, TensorPlace], like: Path, counts: set[str]
) -> None:
    unknown = [each.place.name for each in sources if each.place.name not in theirs]
    if unknown:
        raise CheckpointError(
            f"{like} is another model: it lacks {len(unknown)} of {len(sources)} tensors, {unknown[0]} say"
        )
    for each in sources:
        name, there, here = each.place.name, theirs[each.place.name], each.header.places[each.name][0]
        if there.shape != here.shape:
            raise CheckpointError(
                f"{like} is another model: {name} has shape {list(there.shape)} there, and "
                f"{list(here.shape)} in the checkpoint"
            )
        if here.dtype.is_floating_point and not there.dtype.is_floating_point and name not in counts:
            raise CheckpointError(
                f"{like} has {name} as {there.dtype}, which cannot hold it: name a folder whose weights are "
                "not quantized"
            )


def _copy_beside(like: Path, folder: Path) -> None:
    """Configuration, tokenizer and what else is small and beside the weights."""
    for path in sorted(like.iterdir()):
        small = path.is_file() and path.stat().st_size <= _MAX_COPIED_BYTES
        wanted = small and not path.name.startswith(".") and not path.name.endswith(_NOT_COPIED)
        if wanted and path.resolve().parent != folder.resolve():
            try:
                shutil.copyfile(path, folder / path.name)
            except OSError as error:
                reason = error.strerror or error
                raise CheckpointError(f"{path} cannot be copied to {folder}: {reason}") from None
