"""What may be a run's beginning, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.origin import open_origin
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError


def test_a_checkpoint_is_read_by_the_names_of_its_tensors(tmp_path: Path) -> None:
    made = make_replica(fragments=2, frozen=True)
    origin = open_origin(tmp_path / save(Store(LocalDisk(tmp_path), FOLDER), made, 4).path)
    assert origin.name.startswith("commit 4 of run ")
    assert origin.shapes["0.weight"] == (5, 6)
    first = made.layout.fragments[0][0]
    found = origin.read("theta", first.name)
    assert found is not None
    assert torch.equal(found.flatten(), made.outer.outer_parameters(0)[first.span])
    assert list(origin.named) == ["1.weight"]
    assert origin.read("theta", "1.weight") is None, "a frozen parameter is named and not kept"


def test_frozen_parameters_that_a_checkpoint_holds_are_read(tmp_path: Path) -> None:
    made, donor = make_replica(frozen=True, seed=9), make_replica(frozen=True)
    made.load(0, bytearray(b"".join(donor.pin(0).pieces())))
    origin = open_origin(tmp_path / save(Store(LocalDisk(tmp_path), FOLDER), made, 4).path)
    frozen = origin.read("theta", "1.weight")
    assert frozen is not None
    assert frozen.shape == (4, 5)
    assert frozen.numpy().tobytes() == b"".join(donor.model.frozen_bytes(0))
    assert origin.named == {}
    assert origin.read("buffer0", "1.weight") is None, "a frozen parameter has no momentum"


def test_a_model_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, path)
    origin = open_origin(path)
    assert (origin.shapes, origin.vectors, origin.count) == ({"a": (2, 3)}, ("theta",), 0)
    found = origin.read("theta", "a")
    assert found is not None
    assert torch.equal(found, torch.arange(6.0).reshape(2, 3))


def test_what_is_damaged_or_something_else_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint: it has no manifest"):
        open_origin(tmp_path)
    with pytest.raises(CheckpointError, match=r"none\.safetensors cannot be read: No such file"):
        open_origin(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors here, but a text that is long enough")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        open_origin(tmp_path / "text.safetensors")
    made = make_replica()
    path = tmp_path / save(Store(LocalDisk(tmp_path), FOLDER), made, 4).path
    file = path / "outer.000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged: its digest"):
        open_origin(path).read("theta", "0.weight")


def test_a_file_of_a_checkpoint_that_is_missing_or_unreadable_is_named_whole(tmp_path: Path) -> None:
    path = tmp_path / save(Store(LocalDisk(tmp_path), FOLDER), make_replica(fragments=2), 4).path
    file = path / "outer.001.safetensors"
    origin = open_origin(path)
    file.unlink()
    with pytest.raises(
        CheckpointError, match=f"^{path} is no whole checkpoint: its {file.name}: No such file"
    ):
        open_origin(path)
    with pytest.raises(CheckpointError, match=f"^{file} cannot be read: No such file"):
        origin.read("theta", sorted(origin.shapes)[-1])
    (path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=f"^{path}/manifest.json is damaged: it is no JSON text"):
        open_origin(path)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(CheckpointError, match=f"^{loop} cannot be read: "):
        open_origin(loop)
