"""What a new run takes over of an earlier state: each tensor by its name, in any grouping (DU5)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torn_saves import FOLDER, RUN, held_by, make_replica

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.origin import Origin, open_origin
from diloco.checkpoints.regroup import Plan, plan, take_over
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError
from diloco.methods.presets import method
from diloco.methods.spec import Method
from diloco.outer.replica import TensorReplica
from diloco.settings import parse_settings


def saved(folder: Path, made: TensorReplica, preset: str = "diloco") -> Path:
    """A checkpoint of this replica, as a run with that method writes it."""
    settings = parse_settings({"method": {"preset": preset}}, "").to_bytes().decode()
    shared = SharedState.pin(made, held_by(made, 4), (7,) * made.num_fragments)
    written = Store(LocalDisk(folder), FOLDER).write(
        shared.held.head,
        4,
        shared.contents,
        lambda files: shared.manifest(made, files, run=RUN, settings=settings, own=None, previous=None),
    )
    return folder / written.path


def values(replica: TensorReplica, vector: int) -> dict[str, torch.Tensor]:
    """By tensor: the outer parameters (0) or a buffer of the outer optimizer (1 and up)."""
    found = {}
    for fragment, specs in enumerate(replica.layout.fragments):
        flat = [replica.outer.outer_parameters(fragment), *replica.outer.buffers(fragment)][vector]
        found |= {spec.name: flat[spec.span].clone() for spec in specs}
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def taken(path: Path, into: TensorReplica, chosen: Method) -> tuple[Origin, Plan]:
    origin = open_origin(path)
    found = plan(origin, into, chosen)
    take_over(origin, into, found)
    return origin, found


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_parameters_and_momentum_come_along_into_any_grouping_and_back(
    tmp_path: Path, before: int, after: int
) -> None:
    made = make_replica(fragments=before, seed=1)
    other = make_replica(fragments=after, seed=2)
    _, found = taken(saved(tmp_path / "1", made), other, method("diloco", num_fragments=after))
    for vector in (0, 1):
        assert equal(values(other, vector), values(made, vector))
    assert {other.count(f) for f in range(after)} == {found.count} == {1}
    assert (found.dropped, found.new, found.anew, found.lost) == ((), (), (), ())
    back = make_replica(fragments=before, seed=3)
    taken(saved(tmp_path / "2", other), back, method("diloco", num_fragments=before))
    assert [back.digest(f) for f in range(before)] == [made.digest(f) for f in range(before)]


def test_another_outer_optimizer_begins_anew_and_that_is_said(tmp_path: Path) -> None:
    made, other = make_replica(seed=1), make_replica("local_sgd", seed=2)
    _, found = taken(saved(tmp_path, made), other, method("local_sgd"))
    assert equal(values(other, 0), values(made, 0))
    said = "\n".join(found.lines())
    assert f"dropped: buffer0 of the outer optimizer {method('diloco').outer}" in said
    again = make_replica(seed=4)
    _, found = taken(saved(tmp_path / "2", other, "local_sgd"), again, method("diloco"))
    assert equal(values(again, 0), values(made, 0))
    assert found.anew == ("buffer0",)
    assert "anew: buffer0 of the outer optimizer" in "\n".join(found.lines())


def test_a_plain_model_gives_its_parameters_and_what_it_lacks_is_named(tmp_path: Path) -> None:
    made, path = make_replica(seed=1), tmp_path / "model.safetensors"
    model = {
        f"{layer}.weight": torch.randn(shape, dtype=torch.bfloat16)
        for layer, shape in ((0, (5, 6)), (1, (4, 5)))
    }
    save_file({**model, "running_mean": torch.zeros(3)}, path)
    before = values(made, 0)
    _, found = taken(path, made, method("diloco"))
    now = values(made, 0)
    assert all(torch.equal(now[name], value.float().flatten()) for name, value in model.items())
    assert set(found.new) == {"0.bias", "1.bias", "2.weight"}
    assert all(torch.equal(now[name], before[name]) for name in found.new)
    said = "\n".join(found.lines())
    assert "kept: 2 tensors of 50 values" in said
    assert "dropped: running_mean, which the new model does not have" in said
    assert "anew: 0.bias, 1.bias, 2.weight, which are not there" in said


def test_frozen_parameters_come_along_and_may_be_trained_from_then_on(tmp_path: Path) -> None:
    made = make_replica(seed=1, frozen=True)
    donor = make_replica(seed=5, frozen=True)
    made.load(0, bytearray(b"".join(donor.pin(0).pieces())))
    frozen = made.model.frozen_bytes(made.num_fragments - 1)
    path = saved(tmp_path, made)
    still, trained = make_replica(seed=2, frozen=True), make_replica(seed=3)
    taken(path, still, method("diloco"))
    taken(path, trained, method("diloco"))
    assert b"".join(still.model.frozen_bytes(0)) == b"".join(frozen)
    assert values(trained, 0)["1.weight"].numpy().tobytes() == b"".join(frozen)


def test_frozen_parameters_that_are_only_named_must_be_those_of_the_new_model(tmp_path: Path) -> None:
    made = make_replica(seed=1, frozen=True)
    path = saved(tmp_path, made)
    same = make_replica(seed=1, frozen=True)
    same.outer.step(0, torch.ones(same.num_elements(0)))
    taken(path, same, method("diloco"))
    assert equal(values(same, 0), values(made, 0))
    assert bytes(same.model.frozen_bytes(0)[0]) == bytes(made.model.frozen_bytes(0)[0])
    with pytest.raises(CheckpointError, match=r"1\.weight was frozen in commit 4 .* has other ones"):
        taken(path, make_replica(seed=2, frozen=True), method("diloco"))
    with pytest.raises(CheckpointError, match=r"1\.weight was frozen"):
        taken(path, make_replica(seed=2), method("diloco"))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3, bias=False))
    base = model[1].weight.detach().clone()
    trained = TensorReplica.of(model, method("diloco"))
    taken(path, trained, method("diloco"))
    assert torch.equal(values(trained, 0)["1.weight"], base.flatten()), "trained from the base on"


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        (lambda value: value.to(torch.int32), "of torch.int32 in the model m.safetensors"),
        (lambda value: value.fill_(torch.nan), "values in the model m.safetensors that are not finite"),
        (lambda value: value.double().fill_(1e300), "that are not finite in this run's torch.float32"),
    ],
)
def test_values_that_would_be_others_here_are_refused_by_the_name_of_their_tensor(
    tmp_path: Path, planted: Callable[[torch.Tensor], torch.Tensor], says: str
) -> None:
    into = make_replica()
    shapes = {spec.name: spec.shape for specs in into.layout.fragments for spec in specs}
    tensors = {name: value.reshape(shapes[name]) for name, value in values(into, 0).items()}
    name = max(tensors)
    save_file({**tensors, name: planted(tensors[name].clone())}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=f"^{re.escape(name)} .*{re.escape(says)}"):
        taken(tmp_path / "m.safetensors", into, method("diloco"))


def test_other_shapes_and_other_models_are_refused_before_anything_changes(tmp_path: Path) -> None:
    path = saved(tmp_path, make_replica(seed=1))
    torch.manual_seed(5)
    wider = TensorReplica.of(nn.Sequential(nn.Linear(6, 7)), method("diloco"))
    before = wider.digest(0)
    with pytest.raises(
        CheckpointError, match=r"0\.weight has shape 5x6 in commit 4 of run .*, and 7x6 in this"
    ):
        plan(open_origin(path), wider, method("diloco"))
    named = TensorReplica.of(nn.ModuleDict({"head": nn.Linear(6, 7)}), method("diloco"))
    with pytest.raises(CheckpointError, match="no tensor of the same name"):
        plan(open_origin(path), named, method("diloco"))
    assert wider.digest(0) == before
