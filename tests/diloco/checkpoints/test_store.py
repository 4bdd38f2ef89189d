"""What is on the disk after a save that ended anywhere: the checkpoint before it, whole (DU1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from torn_saves import FOLDER, TornSaves, held_by, make_replica, save

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Store, runs_on
from diloco.errors import CheckpointError
from tests.diloco.checkpoints.kit import FullDisk


def store(disk: LocalDisk) -> Store:
    return Store(disk, FOLDER)


def indexes(found: Store) -> list[int]:
    return [saved.manifest.index for saved in found.newest()]


def test_a_checkpoint_is_found_under_its_index_and_head(tmp_path: Path) -> None:
    made = make_replica()
    saved = save(store(LocalDisk(tmp_path)), made, 120)
    assert saved.path == f"{FOLDER}/000000000120-{held_by(made, 120).head.hex()[:16]}"
    again = store(LocalDisk(tmp_path)).read(saved.path.rpartition("/")[2])
    assert again == saved
    assert again.manifest.held() == held_by(made, 120)
    assert runs_on(LocalDisk(tmp_path)) == [FOLDER]


def test_of_checkpoints_of_one_head_the_later_is_the_newer_and_neither_is_in_the_others_way(
    tmp_path: Path,
) -> None:
    kept = store(LocalDisk(tmp_path))
    for _ in range(12):
        save(kept, make_replica(), 8)
    assert [name.rpartition("-")[2].partition(".")[2] for name in kept.names()] == [
        "",
        *map(str, range(1, 12)),
    ]
    assert next(kept.newest()).path.endswith(".11")


def test_all_but_the_newest_are_removed(tmp_path: Path) -> None:
    kept = store(LocalDisk(tmp_path))
    for index in (1, 2, 4, 8, 16):
        save(kept, make_replica(), index, serial=index)
    for keep, left in ((9, [16, 8, 4, 2, 1]), (3, [16, 8, 4]), (1, [16])):
        oldest = kept.prune(keep)
        assert indexes(kept) == left
        assert oldest is not None
        assert (oldest.index, oldest.serial_floor) == (left[-1], left[-1])
    assert store(LocalDisk(tmp_path / "empty")).prune(3) is None


def test_what_the_run_gave_up_goes_before_what_the_newest_leads_back_to(tmp_path: Path) -> None:
    kept, made = store(LocalDisk(tmp_path)), make_replica()
    first = save(kept, made, 1, serial=1)
    for index in (2, 4, 8):
        save(kept, made, index, serial=index)
    newest = save(kept, made, 10, serial=10, previous=first)
    oldest = kept.prune(3)
    assert indexes(kept) == [10, 8, 1]
    assert oldest == first.manifest, "results since then are wanted, though what it is of is not the last"
    save(kept, made, 12, serial=12, previous=newest)
    kept.prune(3)
    assert indexes(kept) == [12, 10, 1]


def test_a_damaged_one_is_removed_once_enough_later_ones_are_whole(tmp_path: Path) -> None:
    kept, made = store(LocalDisk(tmp_path)), make_replica()
    for index in (1, 2, 4):
        save(kept, made, index)
    manifest = tmp_path / kept.at(kept.names()[1]) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    kept.prune(3)
    assert len(kept.names()) == 3, "who has no more keeps it"
    save(kept, made, 8)
    kept.prune(3)
    assert len(kept.names()) == len(indexes(kept)) == 3


def test_a_damaged_one_is_not_removed_while_it_is_the_newest(tmp_path: Path) -> None:
    kept, made = store(LocalDisk(tmp_path)), make_replica()
    for index in (1, 2):
        save(kept, made, index)
    (tmp_path / kept.at(kept.names()[1]) / "manifest.json").unlink()
    kept.prune(1)
    assert len(kept.names()) == 2


def test_a_save_that_is_killed_at_any_byte_leaves_the_checkpoint_before_it_whole(tmp_path: Path) -> None:
    """Of the drawn kills some are before the new one counts, some after."""
    torn = TornSaves(tmp_path)
    assert {torn.kill(seed) for seed in range(40)} == {4, 8}


def test_a_disk_that_is_full_at_any_byte_keeps_the_checkpoint_before_and_nothing_of_the_new(
    tmp_path: Path,
) -> None:
    made = make_replica()
    size = save(store(LocalDisk(tmp_path)), made, 4).manifest.size_bytes
    for room in (0, 10, size // 2, size, size + 100):
        kept = store(FullDisk(tmp_path, room))
        with pytest.raises(OSError, match="No space left"):
            save(kept, make_replica(seed=5), 8)
        assert kept.disk.list(FOLDER) == kept.names()
        assert indexes(kept) == [4]


def test_where_less_is_free_than_a_margin_above_its_size_nothing_is_begun(tmp_path: Path) -> None:
    made = make_replica()
    size = save(store(LocalDisk(tmp_path)), made, 4).manifest.size_bytes
    kept = store(FullDisk(tmp_path, 1 << 30, says=int(1.05 * size)))
    with pytest.raises(OSError, match="are needed and"):
        save(kept, made, 8)
    assert indexes(kept) == [4]


def test_names_are_synced_up_to_the_root_only_after_all_bytes_are(tmp_path: Path) -> None:
    calls: list[str] = []

    class Watched(LocalDisk):
        def write(self, path: str, *args: object, **how: object) -> None:
            calls.append(f"write {path.rpartition('/')[2]}")
            super().write(path, *args, **how)  # type: ignore[arg-type]

        def rename(self, old: str, new: str) -> None:
            calls.append("rename")
            super().rename(old, new)

        def sync_dir(self, path: str) -> None:
            calls.append(f"sync {path}")
            super().sync_dir(path)

    saved = save(store(Watched(tmp_path)), make_replica(fragments=2), 6)
    partial = saved.path.replace("/0000", "/.partial-0000")
    assert calls == [
        "write outer.000.safetensors",
        "write outer.001.safetensors",
        "write manifest.json",
        f"sync {partial}",
        "rename",
        f"sync {FOLDER}",
        "sync checkpoints",
        "sync ",
    ]


@pytest.mark.parametrize("wrong", ["shorter", "gone", "no manifest", "torn manifest", "a device"])
def test_what_is_not_whole_is_no_checkpoint_and_is_named(tmp_path: Path, wrong: str) -> None:
    kept = store(LocalDisk(tmp_path))
    save(kept, make_replica(), 4)
    path = tmp_path / save(kept, make_replica(), 8).path
    tensors, manifest = path / "outer.000.safetensors", path / "manifest.json"
    match wrong:
        case "shorter":
            tensors.write_bytes(tensors.read_bytes()[:-1])
        case "gone":
            tensors.unlink()
        case "no manifest":
            manifest.unlink()
        case "torn manifest":
            manifest.write_bytes(manifest.read_bytes()[:-40])
        case "a device":  # which has no end
            manifest.unlink()
            manifest.symlink_to("/dev/zero")
    said: list[CheckpointError] = []
    assert [saved.manifest.index for saved in kept.newest(said.append)] == [4]
    assert len(said) == 1
    assert path.name in str(said[0])


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    kept = store(LocalDisk(tmp_path))
    save(kept, make_replica(), 4)
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    (tmp_path / FOLDER / "results").mkdir()
    kept.begin()
    kept.prune(3)
    assert indexes(kept) == [4]
    assert (tmp_path / FOLDER / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("keep", "covered", "left"),
    [
        (1, 0, [8, 6]),
        (2, 0, [8, 6, 4]),
        (1, 4, [8, 4]),
        (2, 4, [8, 4, 2]),
        (1, 6, [8, 6]),
        (1, 3, [8, 2]),
        (3, 1, [8]),
    ],
)
def test_shares_stay_until_a_newer_state_is_covered(
    tmp_path: Path, keep: int, covered: int, left: list[int]
) -> None:
    store = Store(LocalDisk(tmp_path), FOLDER)
    for index in (2, 4, 6, 8):
        save(store, make_replica(fragments=2), index, fragments=frozenset({index % 4 // 2}))
    oldest = store.prune_shares(keep, covered)
    assert [each.manifest.index for each in store.newest()] == left
    assert oldest is not None


def test_a_whole_state_beside_shares_is_not_given_up_for_an_older_one_that_was_covered_and_is_gone(
    tmp_path: Path,
) -> None:
    store = Store(LocalDisk(tmp_path), FOLDER)
    for index, fragments in ((4, None), (6, None), (8, frozenset({0}))):
        save(store, make_replica(fragments=2), index, fragments=fragments)
    store.prune_shares(1, 2)
    assert [each.manifest.index for each in store.newest()] == [8, 6]
