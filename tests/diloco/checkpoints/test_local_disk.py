"""A folder as a disk: what is written is read back whole, and nobody else may read it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from diloco.checkpoints.local_disk import LocalDisk
from transport.disk import Disk


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return LocalDisk(tmp_path / "state" / "checkpoints")


def test_a_file_is_its_pieces_one_after_the_other_and_any_part_of_it_is_read(disk: Disk) -> None:
    disk.write("a/b/file", [b"one", memoryview(b"two"), b"", memoryview(bytearray(b"three"))])
    assert disk.read("a/b/file") == b"onetwothree"
    assert disk.read("a/b/file", 3, 3) == b"two"
    assert disk.read("a/b/file", 9, 100) == b"ee"
    assert disk.size("a/b/file") == 11


def test_a_piece_is_written_by_its_bytes_whatever_its_items_are(disk: Disk) -> None:
    numbers = memoryview(bytes(range(64))).cast("f")
    disk.write("file", [numbers[2:10]])
    assert disk.read("file") == bytes(range(8, 40))


def test_a_write_that_the_system_takes_in_parts_is_whole(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, piece: whole(descriptor, piece[:3]))
    disk.write("file", [b"0123456789"])
    assert disk.read("file") == b"0123456789"


def test_a_file_is_replaced_by_a_shorter_one(disk: Disk) -> None:
    disk.write("file", [b"a long one"])
    disk.write("file", [b"short"], sync=False)
    assert disk.read("file") == b"short"


def test_bytes_are_synced_unless_that_is_not_wanted(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append, raising=False)
    disk.write("file", [b"x"], sync=False)
    assert not synced
    disk.write("file", [b"x"])
    assert len(synced) == 1


def test_a_file_that_fails_midway_is_left_as_far_as_it_came_and_no_descriptor_stays(disk: Disk) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError("disk full")

    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="disk full"):
        disk.write("file", pieces())
    assert disk.read("file") == b"half"
    assert len(sorted(os.listdir("/proc/self/fd"))) == len(before)


def test_only_the_owner_may_read_files_and_folders(disk: Disk, tmp_path: Path) -> None:
    disk.write("run/file", [b"mine"])
    root = tmp_path / "state" / "checkpoints"
    assert stat.S_IMODE((root / "run" / "file").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "run").stat().st_mode) == 0o700


def test_a_folder_gets_another_name_with_all_in_it(disk: Disk) -> None:
    disk.write(".partial-7/one", [b"1"])
    disk.write(".partial-7/two", [b"2"])
    disk.rename(".partial-7", "7")
    disk.sync_dir("7")
    disk.sync_dir("")
    assert disk.list("") == ["7"]
    assert disk.list("7") == ["one", "two"]
    assert disk.read("7/two") == b"2"


def test_files_and_whole_folders_are_removed_and_what_is_not_there_is_no_error(disk: Disk) -> None:
    disk.write("folder/deep/file", [b"1"])
    disk.write("file", [b"2"])
    for path in ("folder", "file", "never"):
        disk.remove(path)
    assert disk.list("") == []
    assert disk.list("folder") == []


def test_what_is_not_there_cannot_be_read(disk: Disk) -> None:
    with pytest.raises(FileNotFoundError):
        disk.read("none")
    with pytest.raises(FileNotFoundError):
        disk.size("none")


def test_free_space_is_told_before_the_first_file(disk: Disk) -> None:
    assert disk.free_bytes() > 0
