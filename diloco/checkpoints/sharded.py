"""A model in several safetensors files with an index, as loaders of sharded models read it: a file per stage.

Owns the names of the files, the index, and putting the files of several folders together. A stage's worker
writes its own file; the index is there once all files are, under the names of the whole model. Knows nothing
of what the tensors mean.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diloco.checkpoints.local_disk import LocalDisk, reading
from diloco.checkpoints.tensor_file import TensorPlace, header_bytes, read_header
from diloco.compression.vectors import bytes_of
from diloco.errors import CheckpointError

INDEX = "model.safetensors.index.json"
_NAME = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_COPY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """One stage's file."""

    folder: Path
    stage: int
    stages: int
    run: str
    """The run's id, in hex."""
    round: str
    """Of the stage's own commits."""
    sizes: Mapping[str, int]
    """Bytes of each tensor."""

    @property
    def name(self) -> str:
        return shard_name(self.stage, self.stages)

    @property
    def path(self) -> Path:
        return self.folder / self.name


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Where a stage's file goes."""

    folder: Path
    stage: int
    stages: int
    run: str
    """The run's id, in hex."""

    @property
    def path(self) -> Path:
        return self.folder / shard_name(self.stage, self.stages)


def shard_name(stage: int, stages: int) -> str:
    """The file of a stage."""
    return f"model-{stage + 1:05}-of-{stages:05}.safetensors"


def write_shard(place: ShardPlace, tensors: Mapping[str, Tensor], *, index: int) -> bool:
    """Write one stage's tensors, and the index if the others' files are there already: whether they are. A
    file is whole under its name, or not there. Raises `OSError` for a disk that is full or fails."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    places = [TensorPlace.of(name, tensor) for name, tensor in held.items()]
    stage, stages = place.stage, place.stages
    about = {"run": place.run, "round": str(index), "stage": str(stage), "stages": str(stages)}

    def pieces() -> Iterator[bytes | memoryview]:
        yield header_bytes(places, about)
        for tensor in held.values():
            yield bytes_of(tensor)

    _write(place.folder, shard_name(stage, stages), pieces())
    return _write_index(place.folder, stages)


def shards_in(folder: Path) -> list[Shard]:
    """The files of stages that a folder has. Raises `CheckpointError` for one that is damaged."""
    found = []
    with reading(folder):
        names = sorted(each.name for each in folder.iterdir())
    for name in names:
        if not (match := _NAME.fullmatch(name)):
            continue
        with reading(folder / name):
            header = read_header(LocalDisk(folder), name)
        sizes = {each: place.size_bytes for each, (place, _) in header.places.items()}
        about = header.metadata
        stage, stages = int(match[1]) - 1, int(match[2])
        found.append(Shard(folder, stage, stages, about.get("run", ""), about.get("round", ""), sizes))
    return found


def assemble(folders: Sequence[Path], output: Path) -> list[Shard]:
    """Put the files of all stages, which these folders have together, into the folder ``output``, with the
    index; what was put there. Where several have a stage's file, the one of the latest round is taken. Raises
    `CheckpointError` for stages that are missing, and files of several runs or of another number of
    stages."""
    newest: dict[int, Shard] = {}
    every = [each for folder in folders for each in shards_in(folder)]
    if not every:
        raise CheckpointError(f"{_named(folders)} holds no file model-...-of-....safetensors of a stage")
    first = every[0]
    for each in every:
        if (each.run, each.stages) != (first.run, first.stages):
            raise CheckpointError(
                f"{first.path} is of run {first.run[:8]} in {first.stages} stages, and {each.path} of run"
                f" {each.run[:8]} in {each.stages}: they are not of one model"
            )
        held = newest.get(each.stage)
        if held is None or _round_of(each) > _round_of(held):
            newest[each.stage] = each
    if missing := [str(stage) for stage in range(first.stages) if stage not in newest]:
        raise CheckpointError(
            f"{_named(folders)} lacks the file of stage {', '.join(missing)} of {first.stages}"
        )
    chosen = [newest[stage] for stage in range(first.stages)]
    for each in chosen:
        if each.folder.resolve() != output.resolve():
            _write(output, each.name, _content(each.path))
    _write_index(output, first.stages)
    return chosen


def _write_index(folder: Path, stages: int) -> bool:
    """Of the files that are there, if all are. Whoever comes last sees all of them; another one may be
    writing at the same time, so it is looked at again."""
    written: list[Shard] | None = None
    while True:
        shards = [each for each in shards_in(folder) if each.stages == stages]
        if len(shards) < stages:
            return False
        if shards == written:
            return True
        weights = {name: each.name for each in shards for name in each.sizes}
        if len(weights) < sum(len(each.sizes) for each in shards):
            raise CheckpointError(f"{folder} has files of two stages with a tensor of the same name")
        total = sum(sum(each.sizes.values()) for each in shards)
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weights}, indent=2) + "\n"
        _write(folder, INDEX, [text.encode()])
        written = shards


def _write(folder: Path, name: str, pieces: Iterator[bytes | memoryview] | list[bytes]) -> None:
    # Replicas of a stage may have the folder in common, and end at the same moment.
    disk, aside = LocalDisk(folder), f".{name}.{secrets.token_hex(4)}.partial"
    try:
        disk.write(aside, pieces)
        disk.rename(aside, name)
    finally:
        disk.remove(aside)


def _content(path: Path) -> Iterator[bytes]:
    with reading(path), path.open("rb") as file:
        while piece := file.read(_COPY_BYTES):
            yield piece


def _round_of(shard: Shard) -> int:
    return int(shard.round) if shard.round.isdecimal() else -1


def _named(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))
