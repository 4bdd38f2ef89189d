"""Shares from several folders are one whole checkpoint, of the newest state that they have together."""

from __future__ import annotations

from pathlib import Path

import pytest
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.gathering import gather
from diloco.checkpoints.local_disk import ANYWHERE, LocalDisk
from diloco.checkpoints.origin import open_origin
from diloco.checkpoints.store import Store
from diloco.checkpoints.verifying import faults_of
from diloco.errors import CheckpointError


def folder(path: Path, *shares: tuple[int, set[int]], seed: int = 0) -> Path:
    """A worker's state directory, with shares of the states of some commits."""
    for index, fragments in shares:
        replica = make_replica(fragments=3, seed=10 * seed + index)
        save(Store(LocalDisk(path), FOLDER), replica, index, fragments=frozenset(fragments))
    return path


def test_two_shares_are_a_whole_checkpoint_that_another_run_may_begin_from(tmp_path: Path) -> None:
    ann, bob = folder(tmp_path / "ann", (4, {0, 2})), folder(tmp_path / "bob", (4, {1, 2}))
    made = gather([ann, bob], tmp_path / "whole")
    assert (made.index, made.is_whole) == (4, True)
    saved = Store(ANYWHERE, str(tmp_path)).read("whole")
    assert list(faults_of(ANYWHERE, saved)) == []
    assert open_origin(tmp_path / "whole").shapes
    with pytest.raises(CheckpointError, match="holds fragments 0, 2 of 3"):
        open_origin(next((ann / FOLDER).iterdir()))


def test_the_newest_that_is_whole_is_taken(tmp_path: Path) -> None:
    ann = folder(tmp_path / "ann", (4, {0, 2}), (8, {0}))
    bob = folder(tmp_path / "bob", (4, {1}), (8, {2}))
    assert gather([ann, bob], tmp_path / "whole").index == 4


def test_what_is_missing_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    ann, bob = folder(tmp_path / "ann", (4, {0})), folder(tmp_path / "bob", (4, {0, 2}))
    with pytest.raises(CheckpointError, match="of commit 4, the newest, these folders lack fragment 1 of 3"):
        gather([ann, bob], tmp_path / "whole")
    with pytest.raises(CheckpointError, match="nothing holds no checkpoints"):
        gather([ann, tmp_path / "nothing"], tmp_path / "whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ann", "bob"]


def test_shares_of_two_states_are_not_mixed(tmp_path: Path) -> None:
    ann, bob = folder(tmp_path / "ann", (4, {0, 2})), folder(tmp_path / "bob", (4, {1}), seed=1)
    with pytest.raises(CheckpointError, match="lack fragment"):
        gather([ann, bob], tmp_path / "whole")


def test_a_damaged_share_is_not_put_together(tmp_path: Path) -> None:
    ann, bob = folder(tmp_path / "ann", (4, {0, 2})), folder(tmp_path / "bob", (4, {1}))
    path = next((bob / FOLDER).iterdir()) / "outer.001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"damaged.*nothing is put together"):
        gather([ann, bob], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    ann = folder(tmp_path / "ann", (4, {0, 1, 2}))
    with pytest.raises(CheckpointError, match="ann is there already"):
        gather([ann], ann)
