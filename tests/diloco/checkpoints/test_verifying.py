"""What verify finds: each file that is not what was written, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Saved, Store
from diloco.checkpoints.verifying import faults_between, faults_of


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


def test_a_checkpoint_that_names_another_before_it_is_a_fault(store: Store, tmp_path: Path) -> None:
    save(store, make_replica(), 4)
    later = save(store, make_replica(), 8)
    assert list(faults_between(store)) == [], "one that names none came from another life"
    wrong = later.manifest.model_copy(update={"previous": "0" * 64})
    (tmp_path / later.path / "manifest.json").write_bytes(wrong.to_bytes())
    (fault,) = faults_between(store)
    assert fault.startswith(f"{later.path}/manifest.json names another checkpoint before it")
