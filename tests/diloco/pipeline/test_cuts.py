"""Which layers are whose: named cuts, equal parameters, and every refusal as one line."""

from __future__ import annotations

import pytest

from diloco.errors import PipelineError, UserError
from diloco.pipeline.cuts import Part
from transport.limits import LIMITS


def test_cuts_name_the_first_layer_of_each_later_stage() -> None:
    parts = [Part(stage, 4, (6, 12, 18)) for stage in range(4)]
    assert [part.layers([1] * 24) for part in parts] == [
        range(6),
        range(6, 12),
        range(12, 18),
        range(18, 24),
    ]
    assert [part.is_first for part in parts] == [True, False, False, False]
    assert [part.is_last for part in parts] == [False, False, False, True]


def test_without_cuts_stages_have_equal_parameters() -> None:
    """An embedding of five blocks' size weighs as five blocks."""
    sizes = [50, *[10] * 10, 50]
    assert Part(0, 3).all_layers(sizes) == [range(3), range(3, 9), range(9, 12)]
    assert Part(0, 2).all_layers(sizes) == [range(6), range(6, 12)]
    assert Part(0, 12).all_layers(sizes) == [range(i, i + 1) for i in range(12)]
    assert Part(0, 3).all_layers([0, 0, 0]) == [range(1), range(1, 2), range(2, 3)]


def test_a_stage_has_boundaries_where_it_has_neighbours() -> None:
    assert [Part(stage, 3).ends("b") for stage in range(3)] == [(None, "b"), ("b", "b"), ("b", None)]
    assert Part(0, 1).ends("b") == (None, None)


def test_one_stage_has_all_layers() -> None:
    assert Part(0, 1).layers([3, 4]) == range(2)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ((0, 0), "0 stages are not possible"),
        (
            (0, LIMITS.stages + 1),
            f"{LIMITS.stages + 1} stages are not possible: choose from 1 to {LIMITS.stages}",
        ),
        ((4, 4), "there is no stage 4: 4 stages are numbered 0 to 3"),
        ((-1, 4), "there is no stage -1"),
        ((0, 3, (5,)), r"cuts \[5\] make 2 stages and not 3"),
        ((0, 3, (5, 5)), r"cuts \[5, 5\] must rise from 1 on"),
        ((0, 3, (0, 5)), r"cuts \[0, 5\] must rise from 1 on"),
        ((0, 3, (5, 4)), r"cuts \[5, 4\] must rise from 1 on"),
    ],
)
def test_numbers_that_make_no_stage_are_refused(
    wrong: tuple[int, int] | tuple[int, int, tuple[int, ...]], text: str
) -> None:
    with pytest.raises(PipelineError, match=text) as caught:
        Part(*wrong)
    assert isinstance(caught.value, UserError), "a person can mend it"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "num_layers", "text"),
    [
        (Part(0, 3), 2, "3 stages of 2 layers are not possible: choose 1 to 2 stages"),
        (Part(0, 1), 0, "a model without layers cannot be cut"),
        (Part(0, 2, (4,)), 4, "a cut at layer 4 leaves the last stage no layer: the model has 4"),
    ],
)
def test_a_model_with_too_few_layers_is_refused_whatever_the_stage(
    part: Part, num_layers: int, text: str
) -> None:
    with pytest.raises(PipelineError, match=text):
        part.layers([1] * num_layers)
