"""Checkpoints by the paths that people give."""

from __future__ import annotations

from pathlib import Path

import pytest
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.finding import find_checkpoint, place_of, stores_in
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store = Store(LocalDisk(tmp_path), FOLDER)
    for index in (2, 4):
        save(store, make_replica(), index)
    return tmp_path


def test_a_state_directory_and_a_runs_folder_mean_the_newest(home: Path) -> None:
    for path in (home, home / FOLDER):
        disk, saved = find_checkpoint(path)
        assert saved.manifest.index == 4
        assert place_of(disk, saved).parent == home / FOLDER
        assert [store.names() for _, store in stores_in(path)] == [Store(LocalDisk(home), FOLDER).names()]


def test_a_checkpoints_folder_means_that_one(home: Path) -> None:
    oldest = min((home / FOLDER).iterdir())
    disk, saved = find_checkpoint(oldest)
    assert saved.manifest.index == 2
    assert place_of(disk, saved) == oldest


def test_where_there_is_none_or_the_named_one_is_damaged_that_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint that is whole"):
        find_checkpoint(tmp_path / "nowhere")
    newest = max((home / FOLDER).iterdir())
    (newest / "outer.000.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is no whole checkpoint"):
        find_checkpoint(newest)
    assert find_checkpoint(home)[1].manifest.index == 2


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for find in (find_checkpoint, stores_in):
        with pytest.raises(CheckpointError, match=f"^{loop}.* cannot be read: "):
            find(loop)
