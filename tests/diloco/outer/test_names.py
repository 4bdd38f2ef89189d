"""Digests of a replica's states, hashed beside training from what was held when they were wanted."""

from __future__ import annotations

from threading import Thread

import torch
from torch import nn

from diloco.methods.presets import method
from diloco.outer.names import Names
from diloco.outer.replica import TensorReplica
from tests.diloco.outer.kit import make, normal

DILOCO = method("diloco", codec="fp32")


def replica_of(model: nn.Module | None = None, *, keeps_former: bool = True) -> TensorReplica:
    replica = TensorReplica.of(model if model is not None else make(), DILOCO)
    replica.outer.keeps_former = keeps_former
    return replica


def step(replica: TensorReplica, seed: int) -> None:
    replica.outer.step(0, normal(replica.num_elements(0), seed))


def test_a_state_is_named_as_it_was_when_that_was_wanted_whatever_is_trained_meanwhile() -> None:
    replica, twin = replica_of(), replica_of()
    for each in (replica, twin):
        step(each, 1)
    find = replica.to_name(0, replica.check(0))
    assert find is not None
    for seed in (2, 3, 4):
        step(replica, seed)
    found: list[bytes] = []
    thread = Thread(target=lambda: found.append(find()))
    thread.start()
    thread.join(60.0)
    assert found == [twin.digest(0)]


def test_what_is_named_can_be_handed_out_and_is_not_hashed_again() -> None:
    replica = replica_of()
    step(replica, 1)
    assert replica.state_blob(0, None) is None, "nothing is named yet"
    find = replica.to_name(0, replica.check(0))
    assert find is not None
    name = find()
    assert replica.state_blob(0, name) is not None
    replica.outer.outer_parameters(0)[0] += 1.0
    again = replica.to_name(0, replica.check(0))
    assert again is not None
    assert again() == name


def test_the_state_before_the_last_commit_is_named_if_it_is_kept() -> None:
    for keeps in (True, False):
        replica = replica_of(keeps_former=keeps)
        check, name = replica.check(0), TensorReplica.of(make(), DILOCO).digest(0)
        step(replica, 1)
        find = replica.to_name(0, check)
        assert (find is not None and find() == name) is keeps
        assert replica.to_name(0, b"x" * 16) is None


def test_two_replicas_with_the_same_bits_have_one_check_and_frozen_parameters_are_in_it() -> None:
    models = [make(seed=seed) for seed in (0, 0, 0)]
    for model in models:
        for parameter in model[1].parameters():
            parameter.requires_grad_(False)
    with torch.no_grad():
        models[2][1].weight[0, 0] += 1.0
    first, second, other = map(replica_of, models)
    assert first.check(0) == second.check(0) != other.check(0)
    assert isinstance(first.names, Names)
    assert (first.digest(0) == second.digest(0), first.digest(0) == other.digest(0)) == (True, False)
