"""The outer parameters in the live model: to evaluate, to save, and gone again."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from diloco.checkpoints.sharded import ShardPlace
from diloco.methods import method
from diloco.outer.replica import TensorReplica
from diloco.training.lending import Lent, lent, write_model, write_part


def replica_of(model: nn.Module) -> TensorReplica:
    return TensorReplica.of(model, method("diloco"))


def learn(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01)


def test_the_outer_parameters_are_lent_and_saved_and_local_ones_come_back(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    replica, shared = replica_of(model), model.weight.detach().clone()
    learn(model)
    local = model.weight.detach().clone()
    with lent(model, replica) as given:
        assert given is model
        assert torch.equal(model.weight, shared)
    assert torch.equal(model.weight, local)
    write_model(model, replica, tmp_path / "m.safetensors", round_=3, full=False)
    assert torch.equal(load_file(tmp_path / "m.safetensors")["weight"], shared)
    place = ShardPlace(tmp_path, 1, 2, "ab")
    write_part(model, replica, place, round_=3, full=False)
    assert torch.equal(load_file(place.path)["weight"], shared)
    assert torch.equal(model.weight, local)


def test_no_copy_is_held_of_what_is_not_exchanged() -> None:
    """Nothing else is written back: of a large model with adapters that would be the large one."""
    model = nn.Sequential(nn.Linear(3, 2).requires_grad_(False), nn.Linear(2, 2))
    replica = replica_of(model)
    learn(model)
    local = model[1].weight.detach().clone()
    borrowed = Lent(replica)
    nn.init.constant_(model[0].weight, 5.0)
    borrowed.take_back()
    assert torch.equal(model[1].weight, local)
    assert torch.equal(model[0].weight, torch.full((2, 3), 5.0))
