"""Methods: presets are as published, and combinations that cannot work are refused with the reason."""

from __future__ import annotations

import re
from typing import Any

import pytest

from diloco.errors import MethodError
from diloco.methods.presets import PRESETS, method
from diloco.methods.schedule import Schedule
from diloco.methods.spec import METHOD_FIELDS, gamma_range

PUBLISHED: dict[str, dict[str, Any]] = {
    "local_sgd": {"outer": "sgd", "outer_lr": 1.0, "codec": "fp32"},
    "slowmo": {"outer": "heavy_ball", "outer_lr": 1.0, "outer_momentum": 0.5},
    "diloco": {"outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.9},
    "streaming": {"outer_lr": 0.4, "outer_momentum": 0.9, "delay": 1, "codec": "int4"},
    "eager": {"outer_lr": 0.4, "sync_every": 30, "delay": 30, "merge": "eager"},
    "noloco": {"group": "pair", "outer_lr": 0.7, "outer_momentum": 0.5, "gamma": 0.7, "sync_every": 50},
    "co2": {"outer_momentum": 0.5, "outer_clip": 1.0, "sync_every": 48, "delay": 48},
    "sparseloco": {"keep": 64, "value_bits": 2, "feedback_decay": 0.95, "outer_lr": 1.0, "outer": "sgd"},
    "muloco": {"inner": "muon", "outer_lr": 0.7, "outer_momentum": 0.6, "sync_every": 30},
    "sparta": {"mask_one_in": 200, "sync_every": 1, "outer": "sgd"},
    "demo": {
        "feedback_decay": 0.999,
        "feedback_share": 0.2,
        "projection": "dct",
        "outer": "sign",
        "keep": 32,
    },
    "dilocox": {"projection": "low_rank", "codec": "int4", "adapt": "dilocox", "error_feedback": "ef14"},
    "decoupled": {"sync_every": 24, "delay": 2, "weights": "tokens_rate", "fragment_pattern": "packed"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_its_papers_defaults(name: str) -> None:
    chosen = method(name)
    assert {part: getattr(chosen, part) for part in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_cites_its_paper(name: str) -> None:
    assert re.search(r"\d{4}\.\d{5}", PRESETS[name].paper)


def test_overrides_replace_single_fields_and_leave_the_preset_alone() -> None:
    assert method("diloco", sync_every=7) == PRESETS["diloco"].replaced(sync_every=7)
    assert PRESETS["diloco"].sync_every == 100
    assert set(METHOD_FIELDS) | {"name", "paper"} == set(type(PRESETS["diloco"]).model_fields)


def test_an_overlap_of_a_whole_outer_step_stays_one_when_h_changes() -> None:
    assert method("eager", sync_every=10).delay == 10
    assert method("streaming", sync_every=10).delay == 1


def test_a_method_without_pressing_reasons_waits_for_everyone_and_takes_tokens_as_weights() -> None:
    chosen = method("diloco")
    assert (chosen.quorum, chosen.weights, chosen.delay, chosen.group) == (0, "tokens", 0, "all")


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("diloco", {"sync_every": 0}, "sync_every = 0: input should be greater than or equal to 1"),
        ("diloco", {"outer_lr": 0.0}, "outer_lr = 0.0: input should be greater than 0"),
        ("diloco", {"outer_lr": float("nan")}, "finite"),
        ("diloco", {"outer_momentum": 1.0}, "less than 1"),
        ("diloco", {"outer_momentum": 0.0}, 'set outer = "sgd"'),
        ("local_sgd", {"outer_momentum": 0.5}, "has no momentum"),
        ("diloco", {"codec": "int"}, "input should be 'fp32', 'fp16'"),
        ("diloco", {"num_fragments": 0}, "greater than or equal to 1"),
        ("diloco", {"sync_every": 3, "num_fragments": 4}, "inner step of its own"),
        ("diloco", {"sync_evry": 3}, "did you mean 'sync_every'"),
        ("diloco", {"delay": 101}, "its result must land before the next"),
        ("diloco", {"merge": "eager"}, "set delay = sync_every"),
        ("diloco", {"merge": "mix"}, "set delay above 0"),
        ("streaming", {"merge": "mix", "alpha": 1.0}, "never communicate"),
        ("streaming", {"fragment_pattern": "modules"}, "belong together"),
        ("diloco", {"adapt": "lgreco"}, 'set projection = "low_rank"'),
        ("dilocox", {"codec": "int2"}, "do not survive"),
        ("sparta", {"outer": "nesterov", "outer_momentum": 0.9}, "momentum"),
        ("sparta", {"error_feedback": "ef14"}, "come another time"),
        ("noloco", {"gamma": 0.4}, "replicas stay together from 0.50 to 1.50"),
        ("noloco", {"outer": "nesterov"}, "heavy ball"),
        ("noloco", {"codec": "int8"}, "would spoil"),
        ("noloco", {"delay": 5}, "without delay"),
        ("des_loc", {"inner": "sgd"}, "moments of AdamW"),
        ("co2", {"outer": "sgd", "outer_momentum": 0.0}, "does not have"),
        ("sparseloco", {"feedback_decay": 0.5, "error_feedback": "ef21"}, "belongs to ef14"),
        ("diloco", {"error_feedback": "ef21"}, "keeps a running mean"),
        ("diloco", {"error_feedback": "econtrol", "weights": "equal"}, "keeps a running mean"),
    ],
)
def test_a_combination_that_cannot_work_is_refused_with_the_reason(
    name: str, overrides: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MethodError, match=re.escape(reason)) as error:
        method(name, **overrides)
    assert "\n" not in str(error.value)


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(MethodError, match=r"\(did you mean 'diloco'\?\)"):
        method("dilocco")


def test_the_window_of_gamma_is_the_papers() -> None:
    low, high = gamma_range(0.5)
    assert (low, high) == (0.5, pytest.approx(1.5))


def test_fragments_start_staggered_over_h_though_their_number_does_not_divide_it() -> None:
    schedule = Schedule.of(method("streaming", sync_every=10, num_fragments=3))
    assert schedule.offsets == (3, 6, 10)
    assert schedule.periods == (10, 10, 10)
    assert Schedule.of(method("diloco")).offsets == (100,)


def test_moments_move_less_often_than_parameters() -> None:
    schedule = Schedule.of(method("des_loc"))
    assert schedule.periods == (64, 3 * 64, 6 * 64)
    assert schedule.num_commits(6) == 6 + 2 + 1
