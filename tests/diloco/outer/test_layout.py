"""Layout: each storage once, whole tensors in balanced fragments, and digests that tell models apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diloco.errors import LayoutError
from diloco.models.gpt import GPT
from diloco.outer.layout import Layout
from peers.protocol.manifest import layout_name
from transport.limits import LIMITS


def small(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8, bias=bias), nn.Linear(8, 2, bias=bias))


def names(layout: Layout) -> list[str]:
    return [spec.name for fragment in layout.fragments for spec in fragment]


def test_tied_weights_count_once() -> None:
    model = GPT(layers=1, heads=2, width=16, context=8)
    listed = names(Layout.of(model))
    assert "embedding.weight" in listed
    assert "head.weight" not in listed
    assert Layout.of(model).num_elements(0) == sum(p.numel() for p in model.parameters())


def test_two_parameters_on_one_storage_count_once() -> None:
    model = small()
    model.register_parameter("twin", nn.Parameter(model[0].weight.data))
    assert len(names(Layout.of(model))) == 4


def test_a_parameter_of_one_value_shown_as_many_is_refused_by_name() -> None:
    model = small()
    model.scale = nn.Parameter(torch.ones(1, 3).expand(4, 3))
    with pytest.raises(LayoutError, match=r"parameter scale shows one value as many"):
        Layout.of(model)
    model.scale = nn.Parameter(torch.ones(1).expand(1))
    assert "scale" in names(Layout.of(model))


def test_a_frozen_parameter_tied_to_a_trainable_one_is_trainable() -> None:
    model = nn.Module()
    model.first = nn.Parameter(torch.zeros(3), requires_grad=False)
    model.second = nn.Parameter(model.first.data)
    layout = Layout.of(model)
    assert names(layout) == ["second"]
    assert layout.frozen == ()


def test_parameters_that_overlap_in_part_are_refused() -> None:
    base = torch.zeros(10)
    model = nn.Module()
    model.first = nn.Parameter(base[:6])
    model.second = nn.Parameter(base[4:])
    with pytest.raises(LayoutError, match="first and second"):
        Layout.of(model)


def test_neighbours_in_one_storage_are_separate_tensors() -> None:
    base = torch.zeros(10)
    model = nn.Module()
    model.first = nn.Parameter(base[:5])
    model.second = nn.Parameter(base[5:])
    assert names(Layout.of(model)) == ["first", "second"]


def test_frozen_parameters_are_listed_apart_and_buffers_nowhere() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].weight.requires_grad_(False)
    layout = Layout.of(model)
    assert names(layout) == ["0.bias", "1.weight", "1.bias"]
    assert [spec.name for spec in layout.frozen] == ["0.weight"]


def test_fragments_are_contiguous_in_order_and_hold_every_tensor() -> None:
    model = GPT(layers=4, heads=2, width=32, context=8)
    whole = Layout.of(model)
    split = Layout.of(model, 4)
    assert names(split) == names(whole)
    sizes = [split.num_elements(i) for i in range(4)]
    assert sum(sizes) == whole.num_elements(0)
    assert max(sizes) < 1.6 * min(sizes)
    for fragment in split.fragments:
        ends = [spec.span.stop for spec in fragment]
        assert [spec.start for spec in fragment] == [0, *ends[:-1]]


@pytest.mark.parametrize("num_fragments", [0, 5])
def test_more_fragments_than_tensors_are_refused_with_the_range(num_fragments: int) -> None:
    with pytest.raises(LayoutError, match="from 1 to 4"):
        Layout.of(small(), num_fragments)


def test_models_without_shareable_parameters_are_refused() -> None:
    with pytest.raises(LayoutError, match="no trainable parameter"):
        Layout.of(nn.ReLU())
    with pytest.raises(LayoutError, match="float64"):
        Layout.of(small().double())
    with pytest.raises(LayoutError, match="meta"):
        Layout.of(nn.Linear(2, 2, device="meta"))
    with pytest.raises(LayoutError, match="run the model once"):
        Layout.of(nn.LazyLinear(2))


def test_equal_models_have_equal_manifests_and_names_and_shapes_differ_apart() -> None:
    ours = Layout.of(small()).manifest()
    assert Layout.of(small()).manifest() == ours
    assert ours.text_name == layout_name(ours.text.encode(), LIMITS.payload_bytes), (
        "members hand it out by it"
    )
    half = Layout.of(small().bfloat16()).manifest()
    assert half.names_sha256 == ours.names_sha256
    assert half.text_name != ours.text_name
    split = Layout.of(small(), 2).manifest()
    assert split.names_sha256 != ours.names_sha256
    assert Layout.of(small(bias=False)).manifest().names_sha256 != ours.names_sha256


def test_the_manifest_reads_line_by_line() -> None:
    model = small()
    model[1].bias.requires_grad_(False)
    assert Layout.of(model, 2).manifest().text.splitlines() == [
        "0 0.weight 8x4 float32",
        "1 0.bias 8 float32",
        "1 1.weight 2x8 float32",
        "frozen 1.bias 2 float32",
    ]
