"""Method: fields have bounds, and combinations that cannot work are refused with the reason."""

from __future__ import annotations

import re
from typing import Any

import pytest

from diloco.errors import MethodError
from diloco.methods.presets import PRESETS, method
from diloco.methods.spec import METHOD_FIELDS, Method, gamma_range, make_method


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
        ("streaming", {"merge": "mix", "alpha": 1.0}, "never communicate"),
        ("streaming", {"fragment_pattern": "modules"}, "belong together"),
        ("diloco", {"adapt": "lgreco"}, 'set projection = "low_rank"'),
        ("dilocox", {"codec": "int2"}, "do not survive"),
        ("diloco", {"rank_share": 0.5}, 'set projection = "low_rank"'),
        ("sparta", {"outer": "nesterov", "outer_momentum": 0.9}, "momentum"),
        ("sparta", {"error_feedback": "ef14"}, "come another time"),
        ("noloco", {"gamma": 0.4}, "replicas stay together from 0.50 to 1.50"),
        ("noloco", {"outer": "nesterov"}, "heavy ball"),
        ("noloco", {"codec": "int8"}, "would spoil"),
        ("noloco", {"delay": 5}, "without delay"),
        ("noloco", {"weights": "tokens"}, "averages its members plainly"),
        ("des_loc", {"inner": "sgd"}, "moments of AdamW"),
        ("des_loc", {"codec": "int8"}, "only fp32 and bf16 keep"),
        ("des_loc", {"mean_codec": "fp16"}, "only fp32 and bf16 keep"),
        ("diloco", {"outer": "adam", "outer_momentum": [[0, 0.5], [9, 0.9]]}, "for one outer_momentum"),
        ("slowmo", {"codec": "int8"}, "sends the inner learning rate too"),
        ("slowmo", {"mean_codec": "int8"}, "sends the inner learning rate too"),
        ("slowmo", {"delay": 24, "merge": "eager"}, "rounds of whole vectors"),
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


def test_the_window_of_gamma_is_the_papers() -> None:
    low, high = gamma_range(0.5)
    assert (low, high) == (0.5, pytest.approx(1.5))


def test_the_defaults_of_a_method_need_h_and_an_outer_momentum() -> None:
    with pytest.raises(MethodError, match="needs an outer_momentum above 0"):
        make_method({"name": "mine", "sync_every": 10})
    made = make_method({"name": "mine", "sync_every": 10, "outer": "sgd", "outer_lr": 1.0})
    assert (made.codec, made.mean_codec, made.delay, made.gossips) == ("fp32", "same", 0, False)


def test_fields_that_there_are_not_and_methods_without_h_are_refused() -> None:
    with pytest.raises(MethodError, match="sync_every"):
        make_method({"name": "mine"})
    with pytest.raises(MethodError, match="extra"):
        make_method({"name": "mine", "sync_every": 1, "extra": 1})


def test_a_methods_fields_cannot_be_changed_only_replaced() -> None:
    chosen = method("diloco")
    with pytest.raises(ValueError, match="frozen"):
        chosen.sync_every = 3
    assert chosen.replaced(sync_every=3).sync_every == 3
    with pytest.raises(MethodError, match="greater than or equal to 1"):
        chosen.replaced(sync_every=0)


@pytest.mark.parametrize("name", METHOD_FIELDS)
def test_every_field_is_described(name: str) -> None:
    assert (Method.model_fields[name].description or "").endswith((".", ")"))


@pytest.mark.parametrize("name", PRESETS)
def test_an_offer_comes_before_a_landing_at_the_same_step_unless_steps_are_carried(name: str) -> None:
    chosen = PRESETS[name]
    whole_step = chosen.delay == chosen.sync_every
    assert chosen.offers_before_landing == (whole_step and chosen.merge != "carry")
    assert chosen.gossips == (chosen.group != "all")
