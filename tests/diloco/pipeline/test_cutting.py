"""`cut` builds a stage's own layers only, under the whole model's names, and refuses what cannot be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import diloco
from diloco.errors import PipelineError
from diloco.pipeline.cuts import Part
from diloco.pipeline.cutting import clip_share, cut, layer_sizes, refuse_tied
from tests.diloco.pipeline.kit import built, layers


def test_parts_have_the_names_of_the_whole_model_and_fit_together() -> None:
    makers = layers()
    whole = nn.Sequential(*[make() for make in makers]).state_dict()
    parts = [cut(makers, Part(stage, 3, (1, 4))) for stage in range(3)]
    names = [set(part.state_dict()) for part in parts]
    assert set.union(*names) == set(whole)
    assert sum(map(len, names)) == len(whole)
    assert "2.qkv.weight" in names[1]
    for part in parts:
        part.load_state_dict({name: whole[name] for name in part.state_dict()})


def test_only_a_stages_own_layers_get_memory() -> None:
    """Others are counted at most: built on the meta device, once."""
    built_on: list[tuple[int, str]] = []

    def make(index: int) -> nn.Module:
        layer = nn.Linear(4, 4)
        built_on.append((index, layer.weight.device.type))
        return layer

    makers: list[Callable[[], nn.Module]] = [partial(make, index) for index in range(4)]
    assert len(cut(makers, Part(1, 2, (3,)))) == 1
    assert built_on == [(3, "cpu")]
    built_on.clear()
    assert len(cut(makers, Part(1, 2))) == 2
    assert built_on == [*((index, "meta") for index in range(4)), (2, "cpu"), (3, "cpu")]


def test_modules_are_taken_as_they_are() -> None:
    model = built(layers())
    assert list(cut(model, Part(1, 2, (4,)))) == model[4:]


def test_sizes_of_modules_and_of_what_builds_them_are_the_same() -> None:
    assert layer_sizes(layers()) == layer_sizes(built(layers())) == [88, 280, 280, 280, 280, 99]


class TiedHead(nn.Module):
    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight


def tied() -> list[nn.Module]:
    embedding = nn.Embedding(7, 4)
    return [embedding, nn.Linear(4, 4), TiedHead(embedding)]


@pytest.mark.parametrize("stage", [0, 1])
def test_weights_of_two_stages_are_refused_by_name_at_both(stage: int) -> None:
    with pytest.raises(PipelineError) as caught:
        cut(tied(), Part(stage, 2, (1,)))
    assert str(caught.value) == (
        "0.weight of stage 0 and 2.weight of stage 1 are the same weights: give each of the two layers its"
        " own, or choose cuts that leave both in one stage"
    )


def test_weights_that_stay_in_one_stage_may_be_tied() -> None:
    model = [nn.Linear(4, 4), *tied()]
    assert len(cut(model, Part(1, 2, (1,)))) == 3


def test_a_view_of_anothers_memory_is_tied_too_and_a_repeated_layer() -> None:
    model: list[nn.Module] = [nn.Linear(4, 4), nn.Linear(4, 4)]
    model[1].weight = nn.Parameter(model[0].weight.detach())
    with pytest.raises(PipelineError, match=r"0\.weight of stage 0 and 1\.weight of stage 1"):
        cut(model, Part(0, 2, (1,)))
    with pytest.raises(PipelineError, match=r"0\.weight of stage 0 and 1\.weight of stage 1"):
        cut([nn.Linear(4, 4)] * 2, Part(0, 2, (1,)))


def test_what_a_function_builds_is_compared_with_the_modules_at_hand() -> None:
    embedding = nn.Embedding(7, 4)
    model: list[Any] = [embedding, partial(nn.Linear, 4, 4), partial(TiedHead, embedding)]
    with pytest.raises(PipelineError, match=r"0\.weight of stage 0 and 2\.weight of stage 1"):
        cut(model, Part(1, 2, (1,)))


def test_layers_on_the_meta_device_are_not_taken_for_one() -> None:
    with torch.device("meta"):
        model = [nn.Linear(4, 4), nn.Linear(4, 4)]
    assert len(cut(model, Part(0, 2, (1,)))) == 1


def test_whole_stages_are_compared() -> None:
    one = nn.Linear(2, 2)
    with pytest.raises(PipelineError, match="weight of stage 0 and weight of stage 3 are the same weights"):
        refuse_tied([(0, [("", one)]), (1, [("", nn.Linear(2, 2))]), (3, [("", one)])])


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "a Sequential cannot be cut: give its layers as a list"),
        (iter(()), "cannot be cut: give its layers as a list"),
        ([nn.Linear(2, 2), 5], "layer 1 is of type int: give a module, or what builds it"),
        ([nn.Linear(2, 2), lambda: 5], "what builds layer 1 gave int and no module"),
        ([], "a model without layers cannot be cut"),
        ([nn.Linear(2, 2)], "2 stages of 1 layers are not possible"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(model: Any, text: str) -> None:
    with pytest.raises(PipelineError, match=text) as caught:
        cut(model, Part(1, 2))
    assert "\n" not in str(caught.value)


def test_a_layer_that_cannot_be_counted_asks_for_cuts() -> None:
    def needs_values() -> nn.Module:
        layer = nn.Linear(2, 2)
        layer.weight.sum().item()
        return layer

    makers: Sequence[Callable[[], nn.Module]] = [partial(nn.Linear, 2, 2), needs_values]
    with pytest.raises(PipelineError, match=r"layer 1 cannot be built without memory .* name the cuts"):
        cut(makers, Part(0, 2))
    assert len(cut(makers, Part(1, 2, (1,)))) == 1


def test_a_stage_without_parameters_has_no_share_of_the_norm() -> None:
    makers = [partial(nn.Linear, 3, 3, bias=False), nn.Tanh, partial(nn.Linear, 3, 9, bias=False)]
    assert clip_share(makers, Part(0, 3, (1, 2))) == (9 / 36) ** 0.5
    assert clip_share(makers, Part(0, 1)) == 1.0
    with pytest.raises(PipelineError, match="stage 1 has no parameters"):
        clip_share(makers, Part(1, 3, (1, 2)))


def test_the_package_hands_them_out() -> None:
    assert diloco.cut is cut
    assert diloco.Part is Part
