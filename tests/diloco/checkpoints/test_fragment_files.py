"""A fragment's file: the state that members agreed on, or refused by name (DU2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.fragment_files import load_fragment, read_body, require_fit
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Saved, Store
from diloco.errors import CheckpointError
from diloco.methods.presets import PRESETS


@pytest.fixture
def disk(tmp_path: Path) -> LocalDisk:
    return LocalDisk(tmp_path)


@pytest.mark.parametrize("preset", sorted(name for name, each in PRESETS.items() if not each.gossips))
def test_a_state_of_any_method_is_loaded_as_it_was_saved(disk: LocalDisk, preset: str) -> None:
    made = make_replica(preset, fragments=1)
    saved = save(Store(disk, FOLDER), made, 4)
    other = make_replica(preset, fragments=1, seed=9)
    require_fit(saved.manifest, other)
    for fragment in range(made.num_fragments):
        load_fragment(disk, saved, fragment, other)
        assert other.digest(fragment) == made.digest(fragment)
        assert other.count(fragment) == made.count(fragment)


def test_the_file_holds_each_tensor_by_its_name_and_frozen_ones_with_the_last_fragment(
    disk: LocalDisk,
) -> None:
    made = make_replica(fragments=2, frozen=True)
    saved = save(Store(disk, FOLDER), made, 4)
    first, last = (load_file(disk.root / saved.path / f"outer.00{f}.safetensors") for f in range(2))
    assert "frozen/1.weight" not in first
    (frozen,) = made.model.frozen_bytes(1)
    assert bytes(frozen) == last["frozen/1.weight"].numpy().tobytes()
    theta = torch.cat([first[f"theta/{each.name}"].flatten() for each in made.layout.fragments[0]])
    momentum = torch.cat([first[f"buffer0/{each.name}"].flatten() for each in made.layout.fragments[0]])
    assert torch.equal(theta, made.outer.outer_parameters(0))
    assert torch.equal(momentum, made.outer.buffers(0)[0])
    assert int(first["count"]) == 1


def test_a_flipped_bit_anywhere_is_found_and_the_file_named(disk: LocalDisk) -> None:
    saved = save(Store(disk, FOLDER), make_replica(), 4)
    path = disk.root / saved.path / "outer.000.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"outer\.000\.safetensors"):
            read_body(disk, saved, 0)


def test_files_that_are_whole_and_hold_another_state_than_was_agreed_are_refused(disk: LocalDisk) -> None:
    saved = save(Store(disk, FOLDER), make_replica(), 4)
    agreed = saved.manifest.fragments[0].model_copy(update={"digest": "00" * 32})
    other = Saved(saved.path, saved.manifest.model_copy(update={"fragments": (agreed,)}))
    with pytest.raises(CheckpointError, match="holds another state than the members agreed on"):
        read_body(disk, other, 0)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (make_replica(fragments=2), "has 1 fragments, this run 2"),
        (make_replica("local_sgd"), "holds theta, buffer0 of fragment 0, this run's method has theta"),
        (make_replica(frozen=True), "of another model: 1.weight differs"),
    ],
)
def test_a_checkpoint_of_another_model_or_method_is_refused_with_what_differs(
    disk: LocalDisk, other: object, reason: str
) -> None:
    saved = save(Store(disk, FOLDER), make_replica(), 4)
    with pytest.raises(CheckpointError, match=reason):
        require_fit(saved.manifest, other)  # type: ignore[arg-type]
