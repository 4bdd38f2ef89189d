"""Presets: they are as published, and single fields of them can be replaced."""

from __future__ import annotations

import re
from typing import Any

import pytest

from diloco.errors import MethodError
from diloco.methods.presets import PRESETS, method
from diloco.methods.spec import METHOD_FIELDS

PUBLISHED: dict[str, dict[str, Any]] = {
    "local_sgd": {"outer": "sgd", "outer_lr": 1.0, "codec": "fp32"},
    "slowmo": {"outer": "slow_momentum", "outer_lr": 1.0, "outer_momentum": 0.5},
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
    "dilocox": {
        "projection": "low_rank",
        "rank_share": 0.6,
        "codec": "int4",
        "adapt": "dilocox",
        "error_feedback": "ef14",
    },
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


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(MethodError, match=r"\(did you mean 'diloco'\?\)"):
        method("dilocco")


def test_a_rank_that_is_named_takes_the_place_of_the_presets_share() -> None:
    assert (method("dilocox", rank=8).rank, method("dilocox", rank=8).rank_share) == (8, 0.0)
    assert method("dilocox", rank=8, rank_share=0.25).rank_share == 0.25
    assert method("dilocox", sync_every=7).rank_share == 0.6
