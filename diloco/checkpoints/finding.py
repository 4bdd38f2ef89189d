"""Checkpoints by the paths that people give: a checkpoint's folder, or a state directory with many."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from diloco.checkpoints.local_disk import ANYWHERE, LocalDisk, reading
from diloco.checkpoints.manifest import FILE_NAME
from diloco.checkpoints.store import Saved, Store, is_checkpoint, runs_on
from diloco.errors import CheckpointError
from transport.disk import Disk


def find_checkpoint(
    path: Path, passed: Callable[[CheckpointError], None] = lambda error: None
) -> tuple[Disk, Saved]:
    """The checkpoint in the folder ``path``, or the newest whole one of the run, or of the state directory,
    that is there; ``passed`` is told of newer ones that are not whole. Raises `CheckpointError`."""
    path = path.expanduser()
    with reading(path):
        is_one = (path / FILE_NAME).exists()
    if is_one:
        return ANYWHERE, Store(ANYWHERE, str(path.parent)).read(path.name)
    newest = [(disk, saved) for disk, store in stores_in(path) for saved in islice(store.newest(passed), 1)]
    if not newest:
        raise CheckpointError(f"{path} holds no checkpoint that is whole: diloco checkpoint list {path}")
    return max(newest, key=lambda found: found[1].manifest.written_at)


def stores_in(path: Path) -> list[tuple[Disk, Store]]:
    """The runs whose checkpoints are below a state directory, or in the folder of one run."""
    disk = LocalDisk(path.expanduser())
    with reading(path):
        folders = runs_on(disk)
        if not folders and any(map(is_checkpoint, disk.list(""))):
            folders = [""]
    return [(disk, Store(disk, folder)) for folder in folders]


def place_of(disk: Disk, saved: Saved) -> Path:
    """Where a checkpoint lies."""
    assert isinstance(disk, LocalDisk), "people name folders of this machine"
    return disk.root / saved.path
