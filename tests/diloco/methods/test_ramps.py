"""Ramps: settings that change over outer steps, how they are read, and their values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from diloco.errors import MethodError, SettingsError
from diloco.methods.presets import PRESETS, method
from diloco.methods.ramps import MAX_POINTS, value_at, values
from diloco.settings import RunSettings, commented_toml, parse_settings

WARM_UP_AND_DECAY = ((2, 0.1), (4, 0.7), (10, 0.7), (20, 0.2))


def test_a_value_lies_on_the_line_between_two_points_and_stays_before_and_after_them() -> None:
    found = [value_at(WARM_UP_AND_DECAY, count) for count in (0, 2, 3, 4, 7, 15, 20, 1000)]
    assert found == pytest.approx([0.1, 0.1, 0.4, 0.7, 0.7, 0.45, 0.2, 0.2])
    assert value_at(0.3, 5) == 0.3
    assert values(WARM_UP_AND_DECAY) == (0.1, 0.7, 0.7, 0.2)
    assert values(0.3) == (0.3,)


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_takes_an_outer_learning_rate_that_changes(name: str) -> None:
    assert method(name, outer_lr=[[0, 0.1], [5, 0.5]]).outer_lr == ((0, 0.1), (5, 0.5))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "should have 1 to 64 points"),
        ([[0, 0.1]] * (MAX_POINTS + 1), "should have 1 to 64 points"),
        ([[0, 0.1, 2]], "each [outer step, value]"),
        ([0.1, 0.2], "each [outer step, value]"),
        ([[0, 0.1], [0, 0.2]], "rise"),
        ([[-1, 0.1]], "whole numbers"),
        ([[0.5, 0.1]], "whole numbers"),
        ([[True, 0.1]], "whole numbers"),
        ([[0, 0.0]], "greater than 0"),
        ([[0, 11]], "less than or equal to 10"),
        ([[0, float("nan")]], "finite"),
        (10**400, "finite"),
        ([[0, 10**400]], "finite"),
        ([[0, "x"]], "should be a number"),
        ("fast", "should be a number, or points"),
        (True, "should be a number, or points"),
        (None, "should be a number, or points"),
    ],
)
def test_what_is_no_ramp_is_refused_in_one_line(value: Any, reason: str) -> None:
    with pytest.raises(MethodError, match=re.escape(reason)) as error:
        method("diloco", outer_lr=value)
    assert "\n" not in str(error.value)


def test_a_momentum_may_change_below_1() -> None:
    changed = method("diloco", outer_momentum=[[0, 0.0], [10, 0.9]])
    assert value_at(changed.outer_momentum, 5) == pytest.approx(0.45)
    with pytest.raises(MethodError, match="less than 1"):
        method("diloco", outer_momentum=[[0, 0.5], [10, 1.0]])
    with pytest.raises(MethodError, match="needs an outer_momentum above 0"):
        method("diloco", outer_momentum=[[0, 0.0], [10, 0.0]])


def test_gamma_must_fit_every_momentum_that_a_gossip_group_passes_through() -> None:
    method("noloco", outer_momentum=[[0, 0.3], [10, 0.6]])
    with pytest.raises(MethodError, match=r"replicas stay together from 0\.80"):
        method("noloco", outer_momentum=[[0, 0.3], [10, 0.8]])


def test_settings_carry_a_ramp_through_toml_and_bytes() -> None:
    run = parse_settings({"method": {"outer_lr": [[0, 0.1], [5, 0.5]]}}, "RUN.toml")
    assert run.method.resolved().outer_lr == ((0, 0.1), (5, 0.5))
    assert RunSettings.from_bytes(run.to_bytes()).digest() == run.digest()
    assert "\nouter_lr = [[0, 0.1], [5, 0.5]]\n" in commented_toml(run)
    with pytest.raises(SettingsError, match=re.escape("method.outer_lr = [[5, 0.1]")):
        parse_settings({"method": {"outer_lr": [[5, 0.1], [3, 0.5]]}}, "RUN.toml")
