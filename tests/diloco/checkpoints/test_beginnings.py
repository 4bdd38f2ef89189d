"""What a worker begins with: which checkpoint, what leads on from it, and what is its own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from torn_saves import FOLDER, RUN, make_replica

from diloco.checkpoints.keeper import Hooks, Keeper
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.origin import open_origin
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError
from diloco.settings import Checkpoint
from peers.protocol.events import (
    CheckpointRestored,
    CheckpointWritten,
)
from peers.protocol.held import Held
from tests.diloco.checkpoints.keeper_kit import FIRST, Steps, Worker


def test_what_was_trained_since_is_written_at_the_end_and_a_later_process_begins_with_it(
    tmp_path: Path,
) -> None:
    first = Worker(LocalDisk(tmp_path))
    first.settle()
    record = first.commit(seconds=1.0)  # too soon after the first
    first.close()
    later = Worker(LocalDisk(tmp_path), make_replica(seed=99))
    assert later.held is not None
    assert (later.held.head, later.held.index) == (record.hash(), 1)
    assert later.held.digests == (first.replica.digest(0),) == (later.replica.digest(0),)
    assert later.of(CheckpointRestored) == [1]
    later.close()
    assert later.of(CheckpointWritten) == [], "it is on the disk as it is"
    after = later.commit()
    assert after.parent == record.hash()


def damage(folder: Path, index: int) -> None:
    """One bit of the checkpoint of that commit."""
    path = next((folder / FOLDER).glob(f"{index:012}-*")) / "outer.000.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def test_of_a_damaged_checkpoint_the_one_before_is_loaded_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(LocalDisk(tmp_path))
    worker.commit()
    worker.settle()
    damage(tmp_path, 1)
    with caplog.at_level(logging.WARNING, "diloco"):
        later = Worker(LocalDisk(tmp_path), make_replica(seed=99))
    assert later.held is not None
    assert later.held.index == 0
    (said,) = (each.getMessage() for each in caplog.records)
    assert "is damaged: its digest" in said
    assert said.endswith("; an older checkpoint is taken")


def test_where_no_older_one_is_whole_it_is_said_what_the_worker_does_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(LocalDisk(tmp_path))
    worker.commit()
    worker.settle()
    for index in (0, 1):
        damage(tmp_path, index)
    other = make_replica(seed=99)
    keeper = Keeper(LocalDisk(tmp_path), RUN, str, other, Hooks(print, print), Steps())
    with caplog.at_level(logging.WARNING, "diloco"):
        assert keeper.begin() is None
    said = [each.getMessage() for each in caplog.records]
    assert [each.count("is damaged: its digest") for each in said] == [1, 1]
    assert all(each.endswith("this worker enters without, and fetches the run's state") for each in said)
    assert "older checkpoint is taken" not in caplog.text


def test_where_all_are_damaged_the_replica_is_as_it_was(tmp_path: Path) -> None:
    """It may become the run's first state; half of another one must not."""
    replica = make_replica(fragments=2)
    held = Held(FIRST, 3, (FIRST, FIRST), (replica.digest(0), replica.digest(1)))
    shared = SharedState.pin(replica, held, (1, 1))
    Store(LocalDisk(tmp_path), FOLDER).write(
        FIRST,
        3,
        shared.contents,
        lambda files: shared.manifest(replica, files, run=RUN, settings="", own=None, previous=None),
    )
    path = next((tmp_path / FOLDER).glob("0*")) / "outer.001.safetensors"
    path.write_bytes(bytes(len(path.read_bytes())))
    other = make_replica(fragments=2, seed=5)
    before = [other.digest(0), other.digest(1)]
    keeper = Keeper(LocalDisk(tmp_path), RUN, str, other, Hooks(print, print), Steps())
    assert keeper.begin() is None
    assert [other.digest(0), other.digest(1)] == before


def test_a_checkpoint_of_one_stage_is_refused_for_another(tmp_path: Path) -> None:
    replica = make_replica()
    held = Held(FIRST, 3, (FIRST,), (replica.digest(0),))
    shared = SharedState.pin(replica, held, (1,))
    saved = Store(LocalDisk(tmp_path), FOLDER).write(
        FIRST,
        3,
        shared.contents,
        lambda files: shared.manifest(
            replica, files, run=RUN, settings="", own=None, previous=None, stage=(1, 3)
        ),
    )
    for stage in ((0, 3), (1, 2), (0, 1)):
        keeper = Keeper(LocalDisk(tmp_path), RUN, str, replica, Hooks(print, print), Steps(), stage=stage)
        with pytest.raises(CheckpointError) as caught:
            keeper.begin()
        assert str(caught.value) == (
            f"{saved.path} is of stage 1 of 3, and this worker trains stage {stage[0]} of {stage[1]}:"
            " give it another folder"
        )
    own = Keeper(LocalDisk(tmp_path), RUN, str, replica, Hooks(print, print), Steps(), stage=(1, 3))
    assert own.begin() is not None
    with pytest.raises(CheckpointError, match="is of stage 1 of 3, which is no whole model"):
        open_origin(tmp_path / saved.path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    Worker(LocalDisk(tmp_path)).settle()
    with pytest.raises(CheckpointError, match=r"of another model: 1\.weight differs"):
        Worker(LocalDisk(tmp_path), make_replica(frozen=True))


def test_a_worker_with_another_base_model_enters_without_the_checkpoint_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = LocalDisk(tmp_path)
    first = Worker(disk, make_replica(frozen=True))
    first.commit()
    first.close()
    other = make_replica(frozen=True, seed=9)
    digest = other.digest(0)
    keeper = Keeper(disk, RUN, str, other, Hooks(print, print), Steps())
    with caplog.at_level(logging.WARNING, "diloco"):
        assert keeper.begin() is None
    (said,) = (each.getMessage() for each in caplog.records)
    assert "is of another base model: 1 frozen parameters, 1.weight say, differ" in said
    assert "enters without it" in said
    assert other.digest(0) == digest
    with pytest.raises(CheckpointError, match="is of another base model"):
        keeper.begin(1)
    again = Worker(disk, make_replica(frozen=True))
    assert again.held is not None
    assert again.replica.digest(0) == again.held.digests[0] == first.replica.digest(0)


def test_a_later_process_finds_the_commits_that_lead_on_from_its_checkpoint(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    worker = Worker(disk)
    worker.commit()
    records = [worker.commit(seconds=1.0) for _ in range(3)]
    worker.settle()
    later = Worker(disk)
    assert later.held is not None
    assert (later.held.index, later.keeper.later) == (1, tuple(records))
    assert later.keeper.begin(0) is not None
    assert Worker(disk).keeper.later == tuple(records)


def test_who_is_to_begin_with_an_earlier_commit_is_led_no_further(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    first = Worker(disk)
    first.commit(seconds=1.0)
    first.settle()
    keeper = Keeper(disk, RUN, str, make_replica(), Hooks(print, print), Steps())
    keeper.begin(0)
    assert keeper.later == ()
    keeper.begin()
    assert [record.index for record in keeper.later] == [1]


def test_a_worker_begins_with_the_checkpoint_of_a_commit_or_the_newest_before_it(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    worker = Worker(disk)
    for _ in range(2):
        worker.commit()
    worker.close()
    indexes = [saved.manifest.index for saved in Store(disk, FOLDER).newest()]
    assert indexes == [2, 1, 0]
    for at_most, found in ((2, 2), (1, 1), (0, 0), (9, 2), (None, 2)):
        keeper = Worker(disk).keeper
        held = keeper.begin(at_most)
        assert held is not None
        assert held.index == found
    for path in (tmp_path / FOLDER).glob("000000000000-*"):
        disk.remove(path.relative_to(tmp_path).as_posix())
    with pytest.raises(CheckpointError, match=r"no checkpoint of commit 0 or before .* of commit 1, 2"):
        Worker(disk).keeper.begin(0)


def test_the_workers_own_state_is_kept_beside_the_shared_one_and_taken_up_with_it(tmp_path: Path) -> None:
    first = Worker(LocalDisk(tmp_path))
    first.commit()
    first.close()
    later = Worker(LocalDisk(tmp_path), make_replica(seed=99))
    assert later.own.taken == 4
    (restored,) = (each for each in later.told if isinstance(each, CheckpointRestored))
    assert (restored.index, restored.step) == (1, 4)


def test_steps_since_the_last_commit_are_written_at_the_end_though_the_shared_state_is_on_the_disk(
    tmp_path: Path,
) -> None:
    first = Worker(LocalDisk(tmp_path))
    first.settle()
    first.own.taken = 3
    first.close()
    assert Worker(LocalDisk(tmp_path)).own.taken == 3


def test_without_what_is_its_own_a_worker_begins_that_anew(tmp_path: Path) -> None:
    first = Worker(LocalDisk(tmp_path), wanted=Checkpoint(own=False))
    first.commit()
    first.close()
    assert first.of(CheckpointWritten) == [0, 1]
    assert not list(tmp_path.rglob("own.safetensors"))
    first.close()
    assert first.of(CheckpointWritten) == [0, 1], "nothing of what is kept has changed"
    later = Worker(LocalDisk(tmp_path), make_replica(seed=99))
    assert later.held is not None
    assert (later.held.index, later.own.taken) == (1, 0)


def test_what_is_not_finite_is_not_kept_and_the_shared_state_is(tmp_path: Path) -> None:
    first = Worker(LocalDisk(tmp_path))
    first.settle()
    first.commit(seconds=1.0)
    first.own.is_sound = False
    first.close()
    later = Worker(LocalDisk(tmp_path))
    assert later.held is not None
    assert (later.held.index, later.own.taken) == (1, 0)


def test_where_the_own_state_is_damaged_the_shared_one_is_loaded_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Worker(LocalDisk(tmp_path))
    first.commit()
    first.close()
    path = next((tmp_path / FOLDER).glob("000000000001-*")) / "own.safetensors"
    path.write_bytes(bytes(len(path.read_bytes())))
    with caplog.at_level(logging.WARNING, "diloco"):
        later = Worker(LocalDisk(tmp_path), make_replica(seed=99))
    assert later.held is not None
    assert (later.held.index, later.own.taken) == (1, 0)
    assert "begins anew with all that is its own" in caplog.text


def test_a_run_goes_back_to_one_commit_as_often_as_its_owner_likes(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    first = Worker(disk)
    for _ in range(4):
        first.commit()
    first.close()
    head = b""
    for _ in range(3):
        again = Worker(disk, resume=2)
        assert again.held is not None
        assert (again.held.index, again.held.head) == (2, head or again.held.head)
        head = again.held.head
        again.index = max(saved.manifest.index for saved in Store(disk, FOLDER).newest()) + 1
        for _ in range(2):  # after the record that gave the later ones up
            again.commit()
        again.close()
