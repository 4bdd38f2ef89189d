"""Methods: presets are as published, and combinations that cannot work are refused with the reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from diloco.errors import MethodError
from diloco.methods import METHOD_PARTS, PRESETS, method


def test_diloco_has_the_papers_outer_optimizer() -> None:
    chosen = method("diloco")
    assert (chosen.outer_lr, chosen.outer_momentum, chosen.nesterov) == (0.7, 0.9, True)
    assert chosen.codec == "int8"


def test_local_sgd_is_plain_averaging() -> None:
    chosen = method("local_sgd")
    assert (chosen.outer_lr, chosen.outer_momentum, chosen.codec) == (1.0, 0.0, "fp32")


def test_overrides_replace_single_fields_and_leave_the_preset_alone() -> None:
    assert method("diloco", sync_every=7) == dataclasses.replace(PRESETS["diloco"], sync_every=7)
    assert PRESETS["diloco"].sync_every == 100
    assert set(METHOD_PARTS) < {field.name for field in dataclasses.fields(PRESETS["diloco"])}


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"sync_every": 0}, "at least one inner step"),
        ({"outer_lr": 0.0}, "above 0"),
        ({"outer_lr": float("nan")}, "above 0"),
        ({"outer_momentum": 1.0}, "below 1"),
        ({"outer_momentum": 0.0}, "set nesterov = false"),
        ({"codec": "int"}, "did you mean 'int8'"),
        ({"num_fragments": 0}, "from 1 to"),
        ({"sync_every": 3, "num_fragments": 4}, "inner step of its own"),
        ({"sync_evry": 3}, "did you mean 'sync_every'"),
    ],
)
def test_a_combination_that_cannot_work_is_refused_with_the_reason(
    overrides: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MethodError, match=reason):
        method("diloco", **overrides)


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(MethodError, match=r"diloco, local_sgd \(did you mean 'diloco'\?\)"):
        method("dilocco")
