"""One outer step: how a state lies, and that it may be moved where it is or into another one."""

from __future__ import annotations

import pytest
import torch

from diloco.methods.spec import Method
from diloco.outer.fragment_step import COUNT_BYTES, FragmentStep, averages_values, require_mean, state_view
from diloco.settings import RunSettings
from tests.diloco.outer.kit import normal

SHAPES = [(6, 4), (4,)]


def method_of(**parts: object) -> Method:
    return RunSettings.model_validate({"method": parts}).method.resolved()


def test_a_state_has_the_parameters_then_buffers_then_what_the_projection_keeps() -> None:
    step = FragmentStep.of(method_of(preset="diloco"), 0, SHAPES)
    state = step.first_state(torch.zeros)
    assert (step.num_elements, step.num_vectors, len(state)) == (28, 2, 56)
    low_rank = FragmentStep.of(
        method_of(preset="diloco", projection="low_rank", rank=2, codec="fp32"), 0, SHAPES
    )
    kept = low_rank.projection_state(low_rank.first_state(torch.zeros))
    assert torch.equal(kept, low_rank.components.projection.first_state())


def test_in_place_and_into_another_vector_give_the_same_bits() -> None:
    step = FragmentStep.of(method_of(preset="diloco"), 0, SHAPES)
    state, mean = normal(56, 1), normal(28, 2)
    other = torch.empty_like(state)
    moved = state.clone()
    stepped = step.step(state, 3, mean, other)
    assert step.commit(moved, 3, mean) == (stepped.count, stepped.check) == (4, step.check(moved, 4))
    assert torch.equal(moved, other)
    assert not torch.equal(moved, state)


def test_the_first_of_two_exchanges_counts_no_step() -> None:
    step = FragmentStep.of(
        method_of(preset="diloco", projection="low_rank", rank=2, codec="fp32"), 0, [(24, 40)]
    )
    state = step.first_state(torch.zeros)
    assert step.sketches(state)
    parameters = step.vectors(state)[0].clone()
    assert step.commit(state, 0, normal(step.mean_length(state), 1)) == (0, step.check(state, 0))
    assert torch.equal(step.vectors(state)[0], parameters)
    assert step.commit(state, 0, normal(step.mean_length(state), 2)) == (1, step.check(state, 1))


def test_moments_are_the_fragments_behind_those_of_parameters() -> None:
    method = method_of(preset="des_loc")
    assert [averages_values(method, fragment) for fragment in range(3)] == [False, True, True]


def test_a_mean_of_another_length_is_refused_and_a_view_begins_with_the_count() -> None:
    with pytest.raises(ValueError, match="not fp32"):
        require_mean(torch.zeros(3), 4)
    view = state_view(torch.ones(2), 5)
    assert bytes(view.read(0, COUNT_BYTES)) == (5).to_bytes(8, "little")
    assert view.size_bytes == COUNT_BYTES + 8
