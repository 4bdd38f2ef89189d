"""What a worker keeps and begins with, told by the events that it would have in a run of one."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torn_saves import FOLDER, RUN, make_replica

from diloco.checkpoints.keeper import Hooks, Keeper
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.manifest import OwnEntry
from diloco.checkpoints.own import OwnState
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.store import Content, Saved, Store
from diloco.errors import CheckpointError, StateError
from diloco.outer.replica import TensorReplica
from diloco.settings import Checkpoint
from peers.protocol.commands import Command, ConfirmApplied, ConfirmCaptured, ConfirmSaved
from peers.protocol.events import (
    BecameActive,
    CheckpointFailed,
    CheckpointRestored,
    CheckpointWritten,
    RoundCommitted,
    SaveWanted,
    StateFetched,
)
from peers.protocol.held import Held
from peers.protocol.record import Record
from tests.diloco.checkpoints.kit import FullDisk
from transport.digests import digest_of, tree_digest
from transport.disk import Disk
from transport.effects import KeepResult

FIRST = b"f" * 32


class Steps:
    """What is the worker's own: a count of its steps."""

    def __init__(self) -> None:
        self.taken = 0
        self.fails = False
        self.is_sound = True

    @property
    def entry(self) -> OwnEntry | None:
        return OwnEntry(step=self.taken, tokens=10 * self.taken) if self.is_sound else None

    def take(self) -> Content:
        if self.fails:
            raise StateError("a lambda cannot be kept")
        return OwnState({"steps": self}).take()

    def take_up(self, disk: Disk, saved: Saved) -> None:
        OwnState({"steps": self}).take_up(disk, saved)

    def state_dict(self) -> int:
        return self.taken

    def load_state_dict(self, state: int) -> None:
        self.taken = state


class Worker:
    """A replica, its keeper, and commits that move it."""

    def __init__(
        self,
        disk: LocalDisk,
        replica: TensorReplica | None = None,
        least_s: float = 10.0,
        wanted: Checkpoint | None = None,
    ) -> None:
        self.replica = replica or make_replica()
        self.own = Steps()
        self.told: list[object] = []
        self.commands: list[Command] = []
        hooks = Hooks(self.commands.append, self.told.append)
        self.keeper = Keeper(
            disk,
            RUN,
            lambda: '{"run": 1}',
            self.replica,
            hooks,
            self.own,
            wanted=wanted,
            least_s=least_s,
        )
        self.now = 0.0
        self.held = self.keeper.begin()
        self.head = self.held.head if self.held else FIRST
        self.index = self.held.index if self.held else 0
        captured = [] if self.held else [ConfirmCaptured(0, self.replica.digest(0))]
        self.hear(BecameActive(self.head, self.index), captured)

    def commit(self, seconds: float = 60.0, behind: int = 0) -> Record:
        """One more round that moved the replica, so many seconds later; what is written meanwhile is done."""
        self.settle()
        self.now += seconds
        self.index += 1
        record = Record(self.head, self.index, 0, 1, 100 + self.index, 4, (b"m" * 32,), (1.0,), FIRST)
        self.head = record.hash()
        self.own.taken += 4
        self.replica.outer.step(0, torch.full((self.replica.num_elements(0),), 0.1 * self.index))
        event = RoundCommitted(record, self.replica.receiver(0), None, 0, 0.0, 0.0, behind)
        self.hear(event, [ConfirmApplied(record, self.replica.digest(0))])
        return record

    def hold(self, serial: int) -> None:
        """The network's thread has the result of a round, and says so once the disk has it, or was asked."""
        digests = [digest_of(bytes([serial]))]
        with suppress(OSError):
            self.keeper.shelf.keep(KeepResult(serial, tree_digest(digests), digests, [bytes([serial])]))

    def claims(self) -> list[tuple[int, bool]]:
        """What it told of its disk: the commit that is saved, and whether all later results are."""
        saved = [each for each in self.commands if isinstance(each, ConfirmSaved)]
        return [(each.held.index, each.keeps) for each in saved]

    def settle(self) -> None:
        """What is being written is written, and told."""
        if self.keeper.writer.is_busy:
            outcome = self.keeper.writer.finish()
            assert outcome is not None
            self.keeper.end_write(self.now, outcome)

    def close(self) -> None:
        self.keeper.close(self.now)

    def hear(self, event: object, answers: list[Command]) -> None:
        self.keeper.hear(self.now, event, answers)
        self.keeper.between_steps(self.now)

    def of(self, kind: type) -> list[int]:
        return [each.index for each in self.told if isinstance(each, kind)]


def test_the_first_checkpoint_is_written_as_soon_as_the_worker_is_active(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    assert worker.held is None
    worker.settle()
    assert worker.of(CheckpointWritten) == [0]
    held = Held(FIRST, 0, (FIRST,), (worker.replica.digest(0),))
    assert worker.commands == [ConfirmSaved(held)]


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
    assert "is damaged: its SHA-256" in said
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
    assert [each.count("is damaged: its SHA-256") for each in said] == [1, 1]
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
    assert worker.commands[1:] == [ConfirmSaved(held, keeps=False)]


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
    disk = FullDisk(tmp_path, room=1 << 20)
    worker = Worker(disk)
    worker.commit()
    disk.room = 0
    worker.hold(102)
    disk.room = 1 << 20
    worker.settle()
    worker.keeper.poll(worker.now)
    assert worker.claims() == [(0, True), (1, False)]


# -- what the settings say --------------------------------------------------------------------------


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


def test_results_that_every_checkpoint_has_in_it_are_removed(tmp_path: Path) -> None:
    worker = Worker(LocalDisk(tmp_path))
    for _ in range(6):
        worker.hold(worker.commit().serial)
    worker.settle()
    left = sorted(path.name[:12] for path in (tmp_path / FOLDER / "results").iterdir())
    assert left == ["000000000105"] * 2 + ["000000000106"] * 2, "with its record each"


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


def test_what_is_not_finite_is_not_kept_and_the_shared_state_is(tmp_path: Path) -> None:
    first = Worker(LocalDisk(tmp_path))
    first.settle()
    first.commit(seconds=1.0)
    first.own.is_sound = False
    first.close()
    later = Worker(LocalDisk(tmp_path))
    assert later.held is not None
    assert (later.held.index, later.own.taken) == (1, 0)


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
