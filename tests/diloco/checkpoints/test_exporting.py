"""The exported model: outer parameters by the names of its state dict, or like a given one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torn_saves import FOLDER, RUN, held_by, make_replica, save

from diloco.checkpoints.exporting import export
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.manifest import OwnEntry
from diloco.checkpoints.own import OwnState
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.sources import LiveModel
from diloco.checkpoints.store import Saved, Store
from diloco.errors import CheckpointError
from diloco.methods.presets import method
from diloco.outer.replica import TensorReplica
from tests.diloco.checkpoints.kit import FullDisk


class Tied(nn.Module):
    """A head tied to the embedding, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("cache", torch.ones(2), persistent=False)


class Whole:
    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self._live = LiveModel(model, names)

    def state_dict(self) -> dict[str, object]:
        return {"live": self._live.state_dict()}

    def load_state_dict(self, state: object) -> None:
        raise AssertionError("it is written only")


def checkpoint_of(model: nn.Module, disk: LocalDisk) -> tuple[TensorReplica, Saved]:
    """A checkpoint of a model that was moved since, with what is the worker's own."""
    replica = TensorReplica.of(model, method("diloco", codec="fp32"))
    replica.outer.step(0, torch.ones(replica.num_elements(0)))
    names = [spec.name for spec in replica.layout.fragments[0]]
    shared = SharedState.pin(replica, held_by(replica, 7), (1, 0))
    saved = Store(disk, FOLDER).write(
        shared.held.head,
        7,
        [*shared.contents, OwnState({"the worker": Whole(model, names)}).take()],
        lambda files: shared.manifest(
            replica, files, run=RUN, settings="", own=OwnEntry(step=1, tokens=1), previous=None
        ),
    )
    return replica, saved


def test_it_loads_strictly_into_the_model_with_the_outer_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, disk = Tied(), LocalDisk(tmp_path)
    replica, saved = checkpoint_of(model, disk)
    done = export(disk, saved, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert done.num_tensors == len(found) == 6, "tied ones once, buffers that are not saved not at all"
    other = Tied()
    missing, unexpected = other.load_state_dict(found, strict=False)
    assert (missing, unexpected) == (["head.weight"], [])
    flat = torch.cat([p.detach().flatten() for p in other.parameters()])
    assert torch.equal(flat, replica.outer.outer_parameters(0))
    assert not torch.equal(other.embed.weight, model.embed.weight), "not the live ones"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.safetensors"]


def test_buffers_are_the_writers_own_until_there_is_a_mean_and_counts_are_whole(tmp_path: Path) -> None:
    model, disk = Tied(), LocalDisk(tmp_path)
    replica, saved = checkpoint_of(model, disk)
    model.norm.running_mean.fill_(9.0)
    _, saved = checkpoint_of(model, disk)
    export(disk, saved, tmp_path / "own")
    assert load_file(tmp_path / "own")["norm.running_mean"].tolist() == [9.0] * 4
    assert replica.buffers == 1
    made = TensorReplica.of(model, method("diloco", codec="fp32"))
    made.outer.step(1, torch.tensor([2.5] * 9))
    export(disk, save(Store(disk, FOLDER), made, 8), tmp_path / "mean", full=True)
    found = load_file(tmp_path / "mean")
    assert found["norm.running_mean"].tolist() == [2.5] * 4
    assert (found["norm.num_batches_tracked"].dtype, int(found["norm.num_batches_tracked"])) == (
        torch.int64,
        2,
    )


TRAINED = {"0.weight", "0.bias", "1.bias", "2.weight"}


def test_frozen_parameters_are_left_out_but_in_full_and_then_are_those_of_the_base(tmp_path: Path) -> None:
    disk, like, made = LocalDisk(tmp_path), tmp_path / "base", make_replica(frozen=True, fragments=2)
    saved = save(Store(disk, FOLDER), made, 4)
    done = export(disk, saved, tmp_path / "m")
    assert (set(load_file(tmp_path / "m")), done.frozen) == (TRAINED, ("1.weight",))
    with pytest.raises(CheckpointError, match=r"only names frozen parameters, 1\.weight say: .*--like"):
        export(disk, saved, tmp_path / "f", full=True)
    like.mkdir()
    (frozen,) = (
        torch.frombuffer(bytearray(each), dtype=torch.float32) for each in made.model.frozen_bytes(1)
    )
    shapes = {each.name: each.shape for each in saved.manifest.tensors}
    base = {name: torch.zeros(shape) for name, shape in shapes.items()}
    save_file(base, like / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"another base model: its 1\.weight has other values"):
        export(disk, saved, tmp_path / "f", like, full=True)
    assert not (tmp_path / "f").exists()
    save_file({name: base[name] for name in TRAINED}, like / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks the frozen parameter 1\.weight"):
        export(disk, saved, tmp_path / "f", like, full=True)
    save_file(base | {"1.weight": frozen.reshape(4, 5)}, like / "model.safetensors")
    done = export(disk, saved, tmp_path / "f", like, full=True)
    found = load_file(tmp_path / "f")
    assert (set(found), done.frozen, done.left_out) == (TRAINED | {"1.weight"}, (), ())
    assert torch.equal(found["1.weight"].flatten(), frozen)


def test_frozen_parameters_that_the_checkpoint_holds_need_no_base(tmp_path: Path) -> None:
    disk, made, donor = LocalDisk(tmp_path), make_replica(frozen=True, seed=9), make_replica(frozen=True)
    made.load(0, bytearray(b"".join(donor.pin(0).pieces())))
    export(disk, save(Store(disk, FOLDER), made, 4), tmp_path / "m", full=True)
    found = load_file(tmp_path / "m")
    assert set(found) == TRAINED | {"1.weight"}
    assert found["1.weight"].numpy().tobytes() == b"".join(donor.model.frozen_bytes(0))


def test_parameters_have_the_models_own_dtypes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2)).bfloat16()
    _, half = checkpoint_of(model, LocalDisk(tmp_path / "half"))
    export(LocalDisk(tmp_path / "half"), half, tmp_path / "h")
    assert {each.dtype for each in load_file(tmp_path / "h").values()} == {torch.bfloat16}


def test_like_a_model_of_hugging_face_it_has_its_dtypes_and_what_lies_beside(tmp_path: Path) -> None:
    model, disk, like, out = Tied(), LocalDisk(tmp_path), tmp_path / "hf", tmp_path / "out"
    _, saved = checkpoint_of(model, disk)
    like.mkdir()
    out.mkdir()
    halves = {name: each.clone().to(torch.float16) for name, each in model.state_dict().items()}
    save_file(halves, like / "model-00001-of-00001.safetensors")
    (like / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    (like / "tokenizer.json").write_text("{}")
    (like / "pytorch_model.bin").write_bytes(b"old")
    done = export(disk, saved, out / "model.safetensors", like)
    assert done.left_out == ("head.weight",)
    assert {each.dtype for each in load_file(out / "model.safetensors").values()} == {torch.float16}
    beside = ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in out.iterdir()) == beside


def test_another_model_and_a_folder_without_one_are_refused(tmp_path: Path) -> None:
    disk, like = LocalDisk(tmp_path), tmp_path / "hf"
    _, saved = checkpoint_of(Tied(), disk)
    like.mkdir()
    with pytest.raises(CheckpointError, match="has no safetensors file"):
        export(disk, saved, tmp_path / "m", like)
    save_file({"other": torch.zeros(1)}, like / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"another model: it lacks 6 of 6 tensors, embed\.weight say"):
        export(disk, saved, tmp_path / "m", like)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        (lambda value: value[:-1].clone(), r"has shape \[.*\] there, and \[.*\] in the checkpoint"),
        (lambda value: value.to(torch.int8), "as torch.int8, which cannot hold it"),
    ],
)
def test_a_model_whose_tensors_cannot_hold_these_is_refused(
    tmp_path: Path, theirs: Callable[[torch.Tensor], torch.Tensor], says: str
) -> None:
    model, disk, like = Tied(), LocalDisk(tmp_path), tmp_path / "hf"
    _, saved = checkpoint_of(model, disk)
    like.mkdir()
    tensors = {name: each.clone() for name, each in model.state_dict().items()}
    save_file({**tensors, "embed.weight": theirs(tensors["embed.weight"])}, like / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"embed\.weight {says}"):
        export(disk, saved, tmp_path / "m", like)
    assert not (tmp_path / "m").exists()


def test_a_full_disk_leaves_nothing_of_it_and_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = LocalDisk(tmp_path)
    _, saved = checkpoint_of(Tied(), disk)
    (tmp_path / "m").write_text("before")
    monkeypatch.setattr("diloco.checkpoints.exporting.LocalDisk", lambda root: FullDisk(root, room=300))
    with pytest.raises(OSError, match="No space left"):
        export(disk, saved, tmp_path / "m")
    assert (tmp_path / "m").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["m"]


def test_what_cannot_be_read_of_the_other_model_is_named_and_not_the_file_that_was_to_be_written(
    tmp_path: Path,
) -> None:
    disk, like = LocalDisk(tmp_path), tmp_path / "like"
    saved = save(Store(disk, FOLDER), make_replica(), 4)
    with pytest.raises(CheckpointError, match=f"^{like} cannot be read: No such file"):
        export(disk, saved, tmp_path / "m", like)
    like.mkdir()
    with pytest.raises(CheckpointError, match=f"^{like} has no safetensors file"):
        export(disk, saved, tmp_path / "m", like)
    shard = like / "b.safetensors"
    shard.mkdir()
    with pytest.raises(CheckpointError, match=f"^{shard} cannot be read: Is a directory"):
        export(disk, saved, tmp_path / "m", like)
    shard.rmdir()
    shard.write_text("no tensors here, but a text that is long enough")
    with pytest.raises(CheckpointError, match=f"^{shard} is no safetensors file"):
        export(disk, saved, tmp_path / "m", like)
    export(disk, saved, shard)
    config = like / "config.json"
    config.write_text("{}")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=f"^{config} cannot be copied to {tmp_path}: Is a directory"):
        export(disk, saved, tmp_path / "m", like)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "like", "config.json", "m"}


def test_a_file_of_the_checkpoint_that_is_gone_is_named(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    saved = save(Store(disk, FOLDER), make_replica(), 4)
    (tmp_path / saved.path / "outer.000.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"outer\.000\.safetensors cannot be read: No such file"):
        export(disk, saved, tmp_path / "m")
