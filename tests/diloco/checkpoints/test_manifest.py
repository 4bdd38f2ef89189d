"""A manifest: read back as it was written, and refused in one line where that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torn_saves import FOLDER, held_by, make_replica, save

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.manifest import FORMAT, Manifest
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return save(Store(LocalDisk(tmp_path), FOLDER), make_replica(fragments=2), 6, serial=9).manifest


def test_it_says_what_its_files_hold_and_how_to_check_them(manifest: Manifest, tmp_path: Path) -> None:
    assert (manifest.index, manifest.serial_floor, len(manifest.files)) == (6, 9, 2)
    assert manifest.held() == held_by(make_replica(fragments=2), 6)
    assert [each.name for each in manifest.tensors] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "2.weight",
    ]
    assert manifest.fragments[0].vectors == ("theta", "buffer0")
    assert manifest.size_bytes == sum(each.size_bytes for each in manifest.files)
    path = next((tmp_path / FOLDER).glob("0*")) / "manifest.json"
    assert Manifest.from_bytes(path.read_bytes(), "here") == manifest


def test_any_flipped_bit_is_seen(manifest: Manifest) -> None:
    content = manifest.to_bytes()
    letters = [at for at, byte in enumerate(content) if not bytes([byte]).isspace()]
    for at in letters[::5]:
        wrong = bytearray(content)
        wrong[at] ^= 1
        with pytest.raises(CheckpointError, match=r"^here [^\n]*$"):
            Manifest.from_bytes(bytes(wrong), "here")


def test_a_record_of_another_version_is_refused_with_the_file_that_has_it(manifest: Manifest) -> None:
    with_record = manifest.model_copy(update={"record": "93c0c0c0"})
    with pytest.raises(
        CheckpointError, match=r"^here has a record that this version of [^\n]* cannot read: "
    ):
        Manifest.from_bytes(with_record.to_bytes(), "here")


def test_what_is_cut_short_is_refused(manifest: Manifest) -> None:
    content = manifest.to_bytes().rstrip()
    for length in range(0, len(content), 50):
        with pytest.raises(CheckpointError, match=r"^here is "):
            Manifest.from_bytes(content[:length], "here")


@pytest.mark.parametrize(("number", "age"), [(FORMAT - 1, "an older"), (FORMAT + 1, "a newer")])
def test_another_format_is_refused_in_one_line_that_says_which(
    manifest: Manifest, number: int, age: str
) -> None:
    fields = json.loads(manifest.to_bytes()) | {"format": number}
    with pytest.raises(CheckpointError, match=f"^here has format {number}, of {age} version [^\n]*$"):
        Manifest.from_bytes(json.dumps(fields).encode(), "here")


@pytest.mark.parametrize("name", ["../outer.safetensors", "/etc/x.y", "a/b.c", "..", ""])
def test_a_file_that_lies_elsewhere_is_refused(manifest: Manifest, name: str) -> None:
    """A folder may have been copied from anybody."""
    files = (manifest.files[0].model_copy(update={"name": name}), *manifest.files[1:])
    wrong = manifest.model_copy(update={"files": files})
    with pytest.raises(CheckpointError, match=r"^here is not valid: files\.0\.name"):
        Manifest.from_bytes(wrong.to_bytes(), "here")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"7", b"{}", b'{"format": "1"}', b"\xff" * 99, b"[" * 100_000]
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^here is "):
        Manifest.from_bytes(content, "here")
