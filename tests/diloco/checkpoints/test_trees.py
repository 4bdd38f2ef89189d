"""State dicts as JSON and tensors: what comes back is what was given, and what cannot is refused by place."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diloco.checkpoints.trees import pack, unpack
from diloco.errors import CheckpointError, StateError


class Number(IntEnum):
    SEVEN = 7


def back(tree: object) -> Any:
    """Through text and tensors."""
    tensors: dict[str, Tensor] = {}
    return unpack(json.loads(json.dumps(pack(tree, "x", tensors))), tensors)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        True,
        1 << 90,
        0.1,
        float("inf"),
        "text",
        b"\x00\xff",
        [],
        (),
        {},
        [1, (2, [3.5, (None,)])],
        {"a": {"$": "tensor", "name": "x"}},
        {0: "zero", 1: {"lr": 0.1}, (1, "b"): 2, None: 3, 2.5: 4},
        random.Random(3).getstate(),
    ],
)
def test_plain_values_come_back_as_they_were(tree: object) -> None:
    found = back(tree)
    assert found == tree
    assert type(found) is type(tree)
    if isinstance(tree, dict):
        assert [type(key) for key in found] == [type(key) for key in tree]


def test_tensors_and_arrays_come_back_bit_for_bit() -> None:
    tree = {
        "t": [torch.tensor([1.0, float("nan")]), torch.tensor(3, dtype=torch.int64)],
        "bf": torch.randn(3).bfloat16(),
        "n": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "s": np.float32(0.1),
        "e": np.empty((0, 2)),
    }
    found = back(tree)
    assert torch.equal(found["t"][0], tree["t"][0]) or torch.isnan(found["t"][0][1])
    assert found["t"][1].dtype == torch.int64
    assert torch.equal(found["bf"], tree["bf"])
    assert found["n"].dtype == np.uint32
    assert np.array_equal(found["n"], tree["n"])
    assert found["s"].dtype == np.float32
    assert found["s"] == tree["s"]
    assert found["e"].shape == (0, 2)


def test_an_adamw_goes_on_from_what_comes_back() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.8, 0.9))
    weight.grad = torch.ones(3)
    optimizer.step()
    found = back(optimizer.state_dict())
    assert found["param_groups"] == optimizer.state_dict()["param_groups"]
    assert torch.equal(found["state"][0]["exp_avg"], optimizer.state[weight]["exp_avg"])


def test_numpys_generator_draws_on_from_what_comes_back() -> None:
    generator = np.random.RandomState(5)
    state = back(generator.get_state())
    wanted = generator.rand(4)
    other = np.random.RandomState(6)
    other.set_state(state)
    assert np.array_equal(other.rand(4), wanted)


def test_kinds_of_dicts_and_numbers_become_plain_ones() -> None:
    found = back({"d": OrderedDict(a=1), "n": Number.SEVEN})
    assert found == {"d": {"a": 1}, "n": 7}
    assert (type(found["d"]), type(found["n"])) == (dict, int)


def test_places_that_read_alike_keep_tensors_of_their_own() -> None:
    tree = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    found = back(tree)
    assert float(found["a.b"]) == 0.0
    assert float(found["a"]["b"]) == 1.0


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"a": [1, {2}]}, r"^x\.a\.1 is builtins\.set, which cannot be kept"),
        ({"f": print}, r"^x\.f is builtins\.builtin_function_or_method"),
        ([object()], r"^x\.0 is builtins\.object"),
        (torch.zeros(2, dtype=torch.complex128), r"^x is a tensor of torch\.complex128"),
        (torch.eye(2).to_sparse(), r"^x is a tensor of torch\.float32 \(torch\.sparse_coo\)"),
        (np.array(["a"]), r"^x is an array of <U1"),
        (np.array([object()]), r"^x is an array of object"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(tree: object, reason: str) -> None:
    with pytest.raises(StateError, match=reason):
        pack(tree, "x", {})


@pytest.mark.parametrize(
    "packed",
    [
        {"$": "tensor", "name": "other"},
        {"$": "array", "name": "x", "dtype": "O", "shape": [1]},
        {"$": "array", "name": "x", "dtype": "<f8", "shape": [99]},
        {"$": "array", "name": "x", "dtype": "nonsense", "shape": [1]},
        {"$": "code", "text": "print()"},
        {"$": "tuple"},
    ],
)
def test_what_was_never_packed_is_refused(packed: object) -> None:
    with pytest.raises(CheckpointError, match="in the checkpoint is damaged"):
        unpack(packed, {"x": torch.zeros(8, dtype=torch.uint8)})
