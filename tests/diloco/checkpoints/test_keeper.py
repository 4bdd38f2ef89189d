"""When a worker writes a checkpoint, what is in it, and what it tells of its disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest
from torn_saves import FOLDER

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Store
from diloco.settings import Checkpoint
from peers.protocol.commands import BeginSave, ConfirmSaved
from peers.protocol.events import (
    BecameActive,
    CheckpointFailed,
    CheckpointWritten,
    SaveWanted,
    StateFetched,
)
from peers.protocol.held import Held
from tests.diloco.checkpoints.keeper_kit import FIRST, Worker
from tests.diloco.checkpoints.kit import FullDisk


def test_the_first_checkpoint_is_written_as_soon_as_the_worker_is_active(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    assert worker.held is None
    worker.settle()
    assert worker.of(CheckpointWritten) == [0]
    held = Held(FIRST, 0, (FIRST,), (worker.replica.digest(0),))
    assert worker.commands == [BeginSave(FIRST), ConfirmSaved(held)]


def test_a_state_that_came_from_others_is_written_at_once_for_no_results_lead_to_it(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    worker.commit()
    worker.settle()
    worker.head, worker.index = b"n" * 32, 40
    worker.hear(StateFetched(0, worker.head, bytearray()), [])
    worker.hear(BecameActive(worker.head, worker.index), [])
    worker.settle()
    assert worker.of(CheckpointWritten)[-1] == 40
    worker.hear(BecameActive(worker.head, worker.index), [])
    worker.settle()
    assert worker.of(CheckpointWritten).count(40) == 1, "the link began anew, and nothing was fetched"


def test_later_ones_are_written_after_commits_and_hold_the_state_behind_them(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    records = [worker.commit() for _ in range(5)]
    worker.settle()
    assert worker.of(CheckpointWritten) == [0, 1, 2, 3, 4, 5]
    newest = next(Store(LocalDisk(tmp_path), FOLDER).newest()).manifest
    assert newest.head == records[-1].hash().hex()
    assert newest.fragments[0].digest == worker.replica.digest(0).hex()
    assert newest.serial_floor == records[-1].serial
    assert newest.settings == '{"run": 1}'
    assert len(list((tmp_path / FOLDER).glob("0*"))) == 3


def test_a_checkpoint_names_the_one_before(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    worker.commit()
    worker.settle()
    newest, before = (saved.manifest for saved in Store(LocalDisk(tmp_path), FOLDER).newest())
    assert newest.previous == before.sha256()
    assert before.previous is None


def test_while_more_commits_are_known_to_follow_none_is_written(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    for behind in (2, 1):
        worker.commit(behind=behind)
    worker.settle()
    assert worker.of(CheckpointWritten) == [0]


def test_a_full_disk_costs_checkpoints_and_no_training_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(tmp_path, room=1 << 20)
    worker = Worker(disk)
    worker.settle()
    disk.room = 100
    with caplog.at_level(logging.WARNING, "diloco"):
        for _ in range(3):
            worker.commit()
        worker.settle()
    assert worker.of(CheckpointFailed) == [1, 2, 3]
    assert caplog.text.count("no checkpoint could be written: No space left on device") == 1
    disk.room = 1 << 20
    worker.commit()
    worker.settle()
    assert worker.of(CheckpointWritten) == [0, 4]


def test_a_result_that_cannot_be_kept_is_told_to_the_coordinator(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path, room=1 << 20)
    worker = Worker(disk)
    worker.settle()
    disk.room = 0
    worker.hold(101)
    worker.keeper.poll(1.0)
    worker.keeper.poll(2.0)
    held = Held(FIRST, 0, (FIRST,), (worker.replica.digest(0),))
    assert worker.commands[2:] == [ConfirmSaved(held, keeps=False)]


def test_results_that_are_not_kept_are_told_once_until_they_are_kept_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(tmp_path, room=1 << 20)
    worker = Worker(disk)
    worker.settle()
    disk.room = 0
    for serial in (101, 102):
        worker.hold(serial)
        worker.keeper.poll(1.0)
    (said,) = (each.getMessage() for each in caplog.records)
    assert f"results are not kept: {FOLDER}/results cannot be written: No space left on device" in said
    disk.room = 1 << 20
    for _ in range(3):
        worker.commit()
    worker.settle()
    disk.room = 0
    worker.hold(109)
    worker.keeper.poll(worker.now)
    assert [each.getMessage() for each in caplog.records] == [said, said]


def test_results_are_counted_on_again_only_from_a_checkpoint_that_has_all_missing_ones_in_it(
    tmp_path: Path,
) -> None:
    """Round 102 is held before commit 1 is applied, and the disk is full for just that moment."""
    disk = FullDisk(tmp_path, room=1 << 20)
    worker = Worker(disk)
    worker.settle()
    room, disk.room = disk.room, 0
    worker.hold(102)
    disk.room = room
    worker.commit()  # of serial 101
    worker.hold(103)
    worker.settle()
    assert worker.claims() == [(0, True), (0, False), (1, False)]
    worker.commit()
    worker.settle()
    worker.commit()
    worker.settle()
    assert worker.claims()[3:] == [(2, True), (3, True)]


def test_a_result_that_goes_missing_while_a_checkpoint_is_written_is_not_in_it(tmp_path: Path) -> None:
    disk = LosingResults(tmp_path)
    worker = Worker(disk)
    worker.commit()
    disk.loses = True
    worker.hold(102)
    worker.settle()
    worker.keeper.poll(worker.now)
    assert worker.claims() == [(0, True), (1, False)]


class LosingResults(LocalDisk):
    """Checkpoints are written by a thread of their own, meanwhile: for them there is room."""

    loses = False

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, sync: bool = True) -> None:
        if self.loses and "/results/" in path:
            raise OSError(28, "No space left on device")
        super().write(path, pieces, sync=sync)


def test_as_many_checkpoints_stay_and_as_far_apart_as_the_owner_says(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path), wanted=Checkpoint(every=2, keep=2))
    for _ in range(7):
        worker.commit()
    worker.settle()
    assert worker.of(CheckpointWritten) == [0, 2, 4, 6]
    store = Store(LocalDisk(tmp_path), FOLDER)
    assert [saved.manifest.index for saved in store.newest()] == [6, 4]
    worker.keeper.follow(Checkpoint(every=3, keep=1))
    for _ in range(3):
        worker.commit()
    worker.settle()
    assert worker.of(CheckpointWritten)[4:] == [9]
    assert [saved.manifest.index for saved in store.newest()] == [9]


def test_without_results_none_are_on_the_disk_and_nobody_is_to_count_on_them(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path), wanted=Checkpoint(results=False))
    assert not worker.keeper.leads_on
    worker.hold(101)
    worker.commit()
    worker.settle()
    assert worker.claims() == [(0, False), (1, False)]
    assert not list((tmp_path / FOLDER).glob("results/*"))
    worker.hold(102)
    worker.keeper.follow(Checkpoint())
    worker.hold(103)
    worker.commit()
    worker.settle()
    assert worker.claims()[2:] == [(2, True)]
    worker.keeper.follow(Checkpoint(results=False))
    worker.keeper.poll(worker.now)
    assert worker.claims()[3:] == [(2, False)]


def test_results_that_every_checkpoint_has_in_it_are_removed(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    for _ in range(6):
        worker.hold(worker.commit().serial)
    worker.settle()
    left = sorted(path.name[:12] for path in (tmp_path / FOLDER / "results").iterdir())
    assert left == ["000000000105"] * 2 + ["000000000106"] * 2, "with its record each"


def test_own_state_that_cannot_be_kept_is_said_once_and_the_shared_one_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(LocalDisk(tmp_path))
    worker.own.fails = True
    with caplog.at_level(logging.WARNING, "diloco"):
        for _ in range(3):
            worker.commit()
        worker.settle()
    assert worker.of(CheckpointWritten) == [0, 1, 2, 3]
    assert caplog.text.count("own is not kept: a lambda cannot be kept") == 1


def test_what_the_owner_wants_saved_is_saved_once_and_as_soon_as_it_is_held(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    worker.commit()
    worker.commit(seconds=1.0)
    worker.settle()
    assert worker.of(CheckpointWritten) == [0, 1], "it is too soon for another one"
    for wanted in (2, 2):
        worker.hear(SaveWanted(wanted), [])
        worker.settle()
    assert worker.of(CheckpointWritten) == [0, 1, 2]
    worker.hear(SaveWanted(4), [])
    worker.commit(seconds=1.0)
    worker.settle()
    assert worker.of(CheckpointWritten) == [0, 1, 2], "commit 4 is not there yet"
    worker.commit(seconds=1.0)
    worker.settle()
    assert worker.of(CheckpointWritten) == [0, 1, 2, 4]
