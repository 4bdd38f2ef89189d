"""Which checkpoint is loaded, and that nothing of a damaged one reaches the replica. What is said of it is in
`test_beginnings`."""

from __future__ import annotations

from pathlib import Path

import pytest
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.loading import load_newest
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With checkpoints of commits 2, 4 and 6, each of another state."""
    found = Store(LocalDisk(tmp_path), FOLDER)
    for index in (2, 4, 6):
        save(found, make_replica(seed=index), index)
    return found


@pytest.mark.parametrize(("at_most", "found"), [(None, 6), (6, 6), (5, 4), (2, 2)])
def test_the_newest_that_is_old_enough_is_loaded(store: Store, at_most: int | None, found: int) -> None:
    replica = make_replica(seed=9)
    saved = load_newest(store, replica, at_most)
    assert saved is not None
    assert saved.manifest.index == found
    assert replica.digest(0) == make_replica(seed=found).digest(0)


def test_one_that_is_damaged_is_passed_over_and_without_any_the_replica_is_as_it_was(
    store: Store, tmp_path: Path
) -> None:
    (next((tmp_path / FOLDER).glob("000000000006-*")) / "outer.000.safetensors").write_bytes(b"nothing")
    replica = make_replica(seed=9)
    saved = load_newest(store, replica)
    assert saved is not None
    assert saved.manifest.index == 4
    with pytest.raises(CheckpointError, match="no checkpoint of commit 1 or before is whole here"):
        load_newest(store, make_replica(seed=9), 1)
    for path in (tmp_path / FOLDER).glob("0*/manifest.json"):
        path.unlink()
    other = make_replica(seed=9)
    assert load_newest(store, other) is None
    assert other.digest(0) == make_replica(seed=9).digest(0)
