"""The state that a new run may begin from: a checkpoint of another run, or a model as safetensors.

Reads files and checks them; what of it a new run takes is `regroup`'s. Tensors go by the names of the model's
parameters, whatever fragments they were in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diloco.checkpoints.fragment_files import read_body
from diloco.checkpoints.local_disk import ANYWHERE, reading
from diloco.checkpoints.manifest import FILE_NAME, Manifest, fragment_file
from diloco.checkpoints.store import Saved, Store
from diloco.checkpoints.tensor_file import read_header, read_tensor
from diloco.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Origin:
    """What there is, before it is read."""

    name: str
    """For people."""
    shapes: dict[str, tuple[int, ...]]
    """By parameter."""
    named: dict[str, str]
    """By name, the digests of frozen parameters whose values are not here: they are the base model's."""
    vectors: tuple[str, ...]
    """What is known of each trained parameter: theta (its value), and the vectors of an outer optimizer."""
    outer: str
    """The outer optimizer that those are of; empty for a model."""
    feedback: str
    """The error feedback whose shared mean is among them."""
    count: int
    """Outer steps."""
    read: Callable[[str, str], Tensor | None]
    """A vector of a parameter; None where there is none (a frozen one has but its value)."""


def open_origin(path: Path) -> Origin:
    """What lies at ``path``: a checkpoint's folder, or a safetensors file. Raises `CheckpointError`."""
    path = path.expanduser()
    with reading(path):
        if path.is_dir() and not (path / FILE_NAME).is_file():
            raise CheckpointError(
                f"{path} is no checkpoint: it has no {FILE_NAME}; name one, STATE/checkpoints/RUN/INDEX-HEAD "
                "(diloco checkpoint list STATE)"
            )
        return _of_checkpoint(path) if path.is_dir() else _of_model(path)


def _of_checkpoint(path: Path) -> Origin:
    path = path.absolute()
    saved = Store(ANYWHERE, str(path.parent)).read(path.name)
    manifest = saved.manifest
    manifest.require_whole(saved.path)
    if manifest.stages > 1:
        raise CheckpointError(
            f"{path} is of stage {manifest.stage} of {manifest.stages}, which is no whole model: a new run"
            " cannot begin from it"
        )
    method = _method_of(manifest)
    first = manifest.fragments[0].vectors
    what = "the replica at " if manifest.replica else ""
    return Origin(
        name=f"{what}{manifest.unit} {manifest.index} of run {manifest.run[:8]}",
        shapes={each.name: each.shape for each in manifest.tensors},
        named=manifest.named_only,
        vectors=tuple(v for v in first if all(v in each.vectors for each in manifest.trained)),
        outer=outer_kind(str(method.get("outer", "")), gossips=manifest.replica),
        feedback=str(method.get("error_feedback", "")),
        count=max(each.count for each in manifest.trained),
        read=_Bodies(saved).read,
    )


def outer_kind(outer: str, *, gossips: bool) -> str:
    """What the vectors of an outer optimizer go by: those of gossip hold steps, with the learning rate and
    the pull of the group in them, and others means of pseudo-gradients."""
    return f"{outer} of gossip" if gossips and outer else outer


def _method_of(manifest: Manifest) -> dict[str, object]:
    """As the settings of that run spell it out; nothing where they are of another version."""
    try:
        found = json.loads(manifest.settings)["method"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


class _Bodies:
    """The fragments of a checkpoint, each read and checked once, when the first of its tensors is wanted."""

    def __init__(self, saved: Saved) -> None:
        self._saved = saved
        self._fragments = {each.name: each.fragment for each in saved.manifest.tensors}
        self._read: dict[int, tuple[dict[str, tuple[int, torch.dtype, tuple[int, ...]]], bytearray]] = {}

    def read(self, vector: str, name: str) -> Tensor | None:
        frozen = self._fragments[name] < 0
        if frozen and vector != "theta":
            return None
        last = len(self._saved.manifest.fragments) - 1
        places, body = self._body(last if frozen else self._fragments[name])
        found = places.get(f"frozen/{name}" if frozen else f"{vector}/{name}")
        if found is None:
            return None
        start, dtype, shape = found
        count = torch.Size(shape).numel()
        if not count:
            return torch.empty(shape, dtype=dtype)
        data = body[start : start + count * dtype.itemsize]
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    def _body(self, fragment: int) -> tuple[dict[str, tuple[int, torch.dtype, tuple[int, ...]]], bytearray]:
        if fragment not in self._read:
            file = f"{self._saved.path}/{fragment_file(fragment)}"
            with reading(file):
                header = read_header(ANYWHERE, file)
            found = {
                name: (start - header.body, place.dtype, place.shape)
                for name, (place, start) in header.places.items()
            }
            self._read[fragment] = found, read_body(ANYWHERE, self._saved, fragment)
        return self._read[fragment]


def _of_model(path: Path) -> Origin:
    file = str(path.absolute())
    header = read_header(ANYWHERE, file)

    def read(vector: str, tensor: str) -> Tensor | None:
        with reading(file):
            return read_tensor(ANYWHERE, file, header, tensor) if vector == "theta" else None

    return Origin(
        name=f"the model {path.name}",
        shapes={tensor: place.shape for tensor, (place, _) in header.places.items()},
        named={},
        vectors=("theta",),
        outer="",
        feedback="",
        count=0,
        read=read,
    )
