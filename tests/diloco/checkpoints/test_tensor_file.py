"""Our safetensors files are what the library reads, and what the library writes is read here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.tensor_file import TensorPlace, can_be_kept, header_bytes, read_header, read_tensor
from diloco.compression.vectors import bytes_of
from diloco.errors import CheckpointError

TENSORS = {
    "whole": torch.arange(12).view(3, 4),
    "half": torch.randn(5).to(torch.bfloat16),
    "none": torch.empty(0, 3),
    "one": torch.tensor(2.5, dtype=torch.float64),
    "yes": torch.tensor([True, False]),
}


@pytest.fixture
def disk(tmp_path: Path) -> LocalDisk:
    return LocalDisk(tmp_path)


def test_the_library_reads_what_is_written_here(disk: LocalDisk) -> None:
    header = header_bytes([TensorPlace.of(*each) for each in TENSORS.items()], {"round": "7"})
    assert len(header) % 8 == 0
    disk.write("ours", [header, *map(bytes_of, TENSORS.values())])
    found = load_file(disk.root / "ours")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert read_header(disk, "ours").metadata == {"format": "pt", "round": "7"}


def test_what_the_library_writes_is_read_here(disk: LocalDisk) -> None:
    save_file(TENSORS, disk.root / "theirs")
    header = read_header(disk, "theirs")
    assert header.places.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = read_tensor(disk, "theirs", header, name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found, tensor)


def test_a_tensor_that_is_not_there_is_named(disk: LocalDisk) -> None:
    save_file(TENSORS, disk.root / "theirs")
    with pytest.raises(CheckpointError, match="has no tensor other"):
        read_tensor(disk, "theirs", read_header(disk, "theirs"), "other")


def test_dtypes_that_the_format_lacks_are_known_beforehand() -> None:
    assert can_be_kept(torch.float32)
    assert not can_be_kept(torch.complex128)


def field(**changed: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b"not json!",
        *(
            (len(text := json.dumps(fields).encode())).to_bytes(8, "little") + text + bytes(8)
            for fields in (
                [],
                {"a": 7},
                {"a": field(dtype="F33")},
                {"a": field(shape=[-2])},
                {"a": field(shape=[2.0])},
                {"a": field(data_offsets=[0, 4])},
                {"a": field(data_offsets=[-8, 0])},
                {"a": field(data_offsets=[8, 16])},
                {"a": field(), "__metadata__": 7},
            )
        ),
    ],
)
def test_what_is_no_such_file_or_is_cut_short_is_refused(disk: LocalDisk, content: bytes) -> None:
    disk.write("other", [content])
    with pytest.raises(CheckpointError, match=r"^other is (no safetensors file|cut short)"):
        read_header(disk, "other")
