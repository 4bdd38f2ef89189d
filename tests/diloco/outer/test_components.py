"""Components: which field of a method chooses which part of a fragment's arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diloco.compression.error_feedback import EF14, EF21, EControl, NoFeedback
from diloco.compression.low_rank import LowRank
from diloco.compression.projections import Dct, IdentityProjection, RandomMask
from diloco.methods.presets import PRESETS, method
from diloco.outer.components import codecs_of, components_of
from tests.diloco.outer.kit import normal

SHAPES = [(8, 6), (8,)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("diloco", IdentityProjection), ("sparta", RandomMask), ("dilocox", LowRank), ("demo", Dct)],
)
def test_the_field_projection_chooses_the_projection(name: str, kind: type) -> None:
    parts = components_of(method(name), 0, SHAPES, is_moment=False)
    assert type(parts.projection) is kind
    assert parts.projection.num_elements == 56


@pytest.mark.parametrize(
    ("overrides", "kind", "shared"),
    [
        ({}, NoFeedback, 0),
        ({"error_feedback": "ef14"}, EF14, 0),
        ({"error_feedback": "ef21", "weights": "equal", "mean_codec": "fp32"}, EF21, 1),
        ({"error_feedback": "econtrol", "weights": "equal", "mean_codec": "fp32"}, EControl, 1),
    ],
)
def test_the_field_error_feedback_chooses_it_and_a_shared_mean_counts_as_a_vector(
    overrides: dict[str, Any], kind: type, shared: int
) -> None:
    parts = components_of(method("diloco", **overrides), 0, SHAPES, is_moment=False)
    assert type(parts.feedback) is kind
    assert parts.num_vectors == 1 + 1 + shared, "outer parameters, momentum, and what is shared"


def test_moments_are_averaged_whole_whatever_the_method_is() -> None:
    parts = components_of(method("demo"), 1, SHAPES, is_moment=True)
    assert (type(parts.projection), type(parts.feedback)) == (IdentityProjection, NoFeedback)
    assert parts.num_vectors == 1
    theta = normal(56, 0)
    parts.optimizers.at(0).step(theta, [], normal(56, 1), 0, theta, [])
    assert torch.equal(theta, normal(56, 1)), "the mean of what was sent comes next"


def test_fragments_draw_different_masks_and_all_members_the_same() -> None:
    first, again, second = (
        components_of(method("sparta", mask_one_in=4), fragment, SHAPES, is_moment=False).projection.support(
            0
        )
        for fragment in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_means_have_a_codec_of_their_own_only_where_the_method_names_one() -> None:
    mine, means = codecs_of(method("diloco", codec="int4"))
    assert (mine.name, means) == ("int4", None)
    mine, means = codecs_of(method("diloco", codec="int4", mean_codec="bf16"))
    assert means is not None
    assert (mine.name, means.name) == ("int4", "bf16")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_made_of_parts_that_there_are(name: str) -> None:
    parts = components_of(PRESETS[name], 0, SHAPES, is_moment=False)
    x = normal(56, 0)
    state = parts.projection.first_state()
    if parts.projection.sketches(state):
        state = parts.projection.next_state(parts.projection.project(x, state, 0), state, 0)
    y = parts.projection.project(x, state, 0)
    assert len(y) == parts.projection.length(state) <= parts.projection.max_sent
    assert parts.projection.lift(y, state, 0).shape == x.shape


def test_the_outer_optimizer_of_a_step_has_the_learning_rate_and_momentum_of_that_step() -> None:
    chosen = method("diloco", outer_lr=[[1, 0.2], [3, 0.6]], outer_momentum=[[0, 0.0], [2, 0.8]])
    optimizers = components_of(chosen, 0, SHAPES, is_moment=False).optimizers
    theta, buffer = torch.zeros(56), torch.zeros(56)
    expected, momentum = torch.zeros(56), torch.zeros(56)
    for count, (lr, mu) in enumerate([(0.2, 0.0), (0.2, 0.4), (0.4, 0.8), (0.6, 0.8), (0.6, 0.8)]):
        delta = normal(56, count)
        optimizers.at(count).step(theta, [buffer], delta, count, theta, [buffer])
        momentum = mu * momentum + delta
        expected = expected - lr * (delta + mu * momentum)
        torch.testing.assert_close(theta, expected)


def test_a_momentum_is_never_scaled_above_1() -> None:
    optimizers = components_of(method("slowmo"), 0, SHAPES, is_moment=False).optimizers
    theta, buffer = torch.zeros(1), torch.ones(1)
    optimizers.at(0, 100.0).step(theta, [buffer], torch.zeros(1), 0, theta, [buffer])
    assert buffer == 1.0
