"""What verify finds: each file that is not what was written, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Saved, Store
from diloco.checkpoints.verifying import breaks_between, faults_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(LocalDisk(tmp_path), FOLDER)


def test_what_is_as_it_was_written_has_no_fault(store: Store) -> None:
    saved = save(store, make_replica(fragments=2), 4)
    assert list(faults_of(store.disk, saved)) == []


def test_each_file_that_was_changed_is_named(store: Store, tmp_path: Path) -> None:
    saved = save(store, make_replica(fragments=2), 4)
    for fragment in range(2):
        path = tmp_path / saved.path / f"outer.00{fragment}.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    faults = list(faults_of(store.disk, saved))
    assert [fault.partition(" ")[0].rpartition("/")[2] for fault in faults] == [
        "outer.000.safetensors",
        "outer.001.safetensors",
    ]


@pytest.mark.parametrize("record", ["00", "c0"])
def test_a_record_that_is_not_that_of_the_head_is_a_fault(store: Store, record: str) -> None:
    saved = save(store, make_replica(), 4)
    wrong = Saved(saved.path, saved.manifest.model_copy(update={"record": record}))
    (fault,) = faults_of(store.disk, wrong)
    assert "manifest.json: its record is" in fault


def follow(store: Store, later: Saved, previous: str) -> None:
    """Have ``later`` name another one before it."""
    named = later.manifest.model_copy(update={"previous": previous})
    store.disk.write(f"{later.path}/manifest.json", [named.to_bytes()])


def test_a_checkpoint_that_follows_none_that_is_here_is_told(store: Store) -> None:
    save(store, make_replica(), 4)
    later = save(store, make_replica(), 8)
    assert list(breaks_between(store)) == [], "one that names none came from another life"
    follow(store, later, "0" * 64)
    (told,) = breaks_between(store)
    assert told.startswith(f"{later.path} follows another checkpoint than ")


def test_a_run_that_went_back_to_an_earlier_checkpoint_is_as_it_should_be(store: Store) -> None:
    first = save(store, make_replica(), 4)
    follow(store, save(store, make_replica(), 8), first.manifest.sha256())
    follow(store, save(store, make_replica(), 12), first.manifest.sha256())
    assert list(breaks_between(store)) == []
