"""A fragment's file: the state that members agreed on, or refused by name (DU2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.fragment_files import OtherBase, load_state, read_body, require_fit
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Saved, Store
from diloco.errors import CheckpointError, StateError
from diloco.methods.presets import PRESETS, method
from diloco.outer.replica import TensorReplica


@pytest.fixture
def disk(tmp_path: Path) -> LocalDisk:
    return LocalDisk(tmp_path)


@pytest.mark.parametrize("preset", sorted(name for name, each in PRESETS.items() if not each.gossips))
def test_a_state_of_any_method_is_loaded_as_it_was_saved(disk: LocalDisk, preset: str) -> None:
    made = make_replica(preset, fragments=1)
    saved = save(Store(disk, FOLDER), made, 4)
    other = make_replica(preset, fragments=1, seed=9)
    require_fit(saved.manifest, other)
    load_state(disk, saved, other)
    for fragment in range(made.num_fragments):
        assert other.digest(fragment) == made.digest(fragment)
        assert other.count(fragment) == made.count(fragment)


def with_others_frozen(replica: TensorReplica, donor: TensorReplica) -> TensorReplica:
    """A replica that took its state, frozen parameters with it, from another member."""
    for fragment in range(donor.num_fragments):
        replica.load(fragment, bytearray(b"".join(donor.pin(fragment).pieces())))
    return replica


def test_frozen_parameters_of_the_base_model_are_named_and_the_state_is_the_agreed_one_with_them(
    disk: LocalDisk,
) -> None:
    made = make_replica(fragments=2, frozen=True)
    saved = save(Store(disk, FOLDER), made, 4)
    assert list(saved.manifest.named_only) == ["1.weight"]
    kept = load_file(disk.root / saved.path / "outer.001.safetensors")
    assert "frozen/1.weight" not in kept
    assert sum(each.nbytes for each in kept.values()) < made.state_size(1) + 32
    require_fit(saved.manifest, made)
    digests = [made.digest(f) for f in range(2)]
    for fragment in range(2):
        made.outer.step(fragment, torch.ones(made.num_elements(fragment)))
    assert [made.digest(f) for f in range(2)] != digests
    load_state(disk, saved, made)
    assert [made.digest(f) for f in range(2)] == digests


def test_a_base_of_several_pieces_is_no_part_of_the_file(disk: LocalDisk) -> None:
    base, adapter = nn.Linear(1024, 1024, bias=False), nn.Linear(8, 8)
    base.weight.requires_grad_(False)
    made = TensorReplica.of(nn.ModuleList([base, adapter]), method("diloco", codec="fp32"))
    saved = save(Store(disk, FOLDER), made, 4)
    digest = made.digest(0)
    assert saved.manifest.size_bytes < 1.01 * (1 << 20), "what fills up a piece, and not four of them"
    made.outer.step(0, torch.ones(made.num_elements(0)))
    load_state(disk, saved, made)
    assert made.digest(0) == digest


def test_a_model_with_another_base_takes_nothing_of_the_state(disk: LocalDisk) -> None:
    saved = save(Store(disk, FOLDER), make_replica(frozen=True, fragments=2), 4)
    other = make_replica(frozen=True, fragments=2, seed=9)
    digests = [other.digest(f) for f in range(2)]
    with pytest.raises(OtherBase, match=r"another base model: 1 frozen parameters, 1\.weight say, differ"):
        load_state(disk, saved, other)
    assert [other.digest(f) for f in range(2)] == digests


def test_frozen_parameters_that_came_from_other_members_are_kept_for_this_model_has_them_not(
    disk: LocalDisk,
) -> None:
    donor = make_replica(frozen=True, fragments=2)
    alike = with_others_frozen(make_replica(frozen=True, fragments=2), donor)
    assert save(Store(disk, FOLDER), alike, 3).manifest.named_only
    taken = with_others_frozen(make_replica(frozen=True, fragments=2, seed=9), donor)
    saved = save(Store(disk, FOLDER), taken, 4)
    assert saved.manifest.named_only == {}
    again = make_replica(frozen=True, fragments=2, seed=9)
    load_state(disk, saved, again)
    assert [again.digest(f) for f in range(2)] == [donor.digest(f) for f in range(2)]
    assert save(Store(disk, FOLDER), again, 5).manifest.named_only == {}, "and so after a restart"


def test_the_file_holds_each_tensor_by_its_name_and_others_frozen_ones_with_the_last_fragment(
    disk: LocalDisk,
) -> None:
    donor = make_replica(fragments=2, frozen=True)
    made = with_others_frozen(make_replica(fragments=2, frozen=True, seed=9), donor)
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


@pytest.mark.parametrize("frozen", [False, True])
def test_a_flipped_bit_anywhere_is_found_and_the_file_named(disk: LocalDisk, frozen: bool) -> None:
    saved = save(Store(disk, FOLDER), make_replica(frozen=frozen), 4)
    path = disk.root / saved.path / "outer.000.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"outer\.000\.safetensors"):
            read_body(disk, saved, 0)


def test_a_state_of_another_size_is_refused_before_anything_changes(disk: LocalDisk) -> None:
    saved = save(Store(disk, FOLDER), make_replica(), 4)
    other = TensorReplica.of(nn.Linear(3, 3), method("diloco", codec="fp32"))
    digest = other.digest(0)
    with pytest.raises(StateError, match=r"bytes instead of \d+: another model"):
        load_state(disk, saved, other)
    assert other.digest(0) == digest


def test_a_state_that_was_loaded_is_not_hashed_again(
    disk: LocalDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_replica(fragments=2, frozen=True)
    saved = save(Store(disk, FOLDER), made, 4)
    digests = [made.digest(f) for f in range(2)]
    again = make_replica(fragments=2, frozen=True)
    load_state(disk, saved, again)
    monkeypatch.setattr("diloco.outer.snapshot.digest_of", None)
    assert [again.digest(f) for f in range(2)] == digests


@pytest.mark.parametrize("frozen", [False, True])
def test_files_that_are_whole_and_hold_another_state_than_was_agreed_are_refused(
    disk: LocalDisk, frozen: bool
) -> None:
    saved = save(Store(disk, FOLDER), make_replica(frozen=frozen), 4)
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
