"""Fragments: every pattern is a partition, layers are found from names, and modules can be named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diloco.errors import LayoutError
from diloco.models.gpt import GPT
from diloco.outer.fragments import partition
from diloco.outer.layout import Layout

GPT_LIKE = [
    ("embedding.weight", 50),
    *((f"blocks.{layer}.{part}.weight", 10) for layer in range(6) for part in ("attention", "feed")),
    ("norm.weight", 1),
    ("head.weight", 50),
]


def names(indices: list[int]) -> list[str]:
    return [GPT_LIKE[i][0] for i in indices]


def layers(indices: list[int]) -> list[int]:
    return sorted({int(name.split(".")[1]) for name in names(indices) if name.startswith("blocks.")})


@pytest.mark.parametrize("pattern", ["balanced", "packed", "sequential", "strided"])
@given(sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=30), data=st.data())
def test_every_pattern_is_a_partition_without_empty_fragments(
    pattern: str, sizes: list[int], data: st.DataObject
) -> None:
    tensors = [(f"part{i}.weight", size) for i, size in enumerate(sizes)]
    count = data.draw(st.integers(1, len(sizes)))
    fragments = partition(tensors, count, pattern)
    assert len(fragments) == count
    assert all(fragments)
    assert all(fragment == sorted(fragment) for fragment in fragments)
    assert sorted(i for fragment in fragments for i in fragment) == list(range(len(sizes)))


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30), data=st.data())
def test_balanced_runs_exceed_their_share_by_at_most_one_tensor(
    sizes: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(sizes)))
    fragments = partition([(str(i), size) for i, size in enumerate(sizes)], count)
    totals = [sum(sizes[i] for i in fragment) for fragment in fragments]
    assert max(totals) <= sum(sizes) / count + max(sizes)
    assert [i for fragment in fragments for i in fragment] == list(range(len(sizes)))


@given(sizes=st.lists(st.integers(1, 1000), min_size=4, max_size=30))
def test_packed_fragments_differ_by_at_most_the_largest_tensor(sizes: list[int]) -> None:
    fragments = partition([(str(i), size) for i, size in enumerate(sizes)], 4, "packed")
    totals = [sum(sizes[i] for i in fragment) for fragment in fragments]
    assert max(totals) - min(totals) <= max(sizes)


def test_packed_places_the_largest_tensor_first() -> None:
    tensors = [("a", 1), ("b", 1), ("c", 2), ("d", 4)]
    assert partition(tensors, 2, "packed") == [[3], [0, 1, 2]]


def test_packed_fills_every_fragment_though_tensors_without_elements_weigh_nothing() -> None:
    assert partition([("a", 0), ("b", 0), ("c", 5)], 3, "packed") == [[2], [0], [1]]


def test_sequential_runs_are_of_equal_elements_rather_than_layers() -> None:
    tensors = [(f"blocks.{i}.weight", size) for i, size in enumerate([6, 2, 2, 2])]
    assert partition(tensors, 2, "sequential") == [[0], [1, 2, 3]]


def test_a_module_name_is_whole_and_not_the_beginning_of_another() -> None:
    tensors = [("blocks.1.weight", 1), ("blocks.10.weight", 1), ("head.weight", 1)]
    assert partition(tensors, 2, "modules", ["blocks.1", "head"]) == [[0], [1, 2]]


def test_strided_fragments_take_every_pth_layer() -> None:
    fragments = partition(GPT_LIKE, 3, "strided")
    assert [layers(fragment) for fragment in fragments] == [[0, 3], [1, 4], [2, 5]]


def test_sequential_fragments_take_runs_of_layers() -> None:
    fragments = partition(GPT_LIKE, 3, "sequential")
    assert [layers(fragment) for fragment in fragments] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("pattern", ["sequential", "strided"])
def test_embeddings_go_with_the_first_fragment_and_norm_and_head_with_the_last(pattern: str) -> None:
    first, _, last = partition(GPT_LIKE, 3, pattern)
    assert names(first)[0] == "embedding.weight"
    assert names(last)[-2:] == ["norm.weight", "head.weight"]


def test_layers_are_the_numbered_children_that_hold_most() -> None:
    tensors = [("stem.0.weight", 5), ("stem.1.weight", 5)]
    tensors += [(f"model.layers.{i}.mlp.{j}.weight", 100) for i in range(4) for j in range(2)]
    fragments = partition(tensors, 2, "strided")
    assert fragments == [[0, 1, 2, 3, 6, 7], [4, 5, 8, 9]]


def test_more_fragments_than_layers_are_refused_with_what_is_possible() -> None:
    with pytest.raises(LayoutError, match="from 1 to 6"):
        partition(GPT_LIKE, 7, "strided")


def test_a_model_without_numbered_children_is_cut_as_balanced() -> None:
    tensors = [("a", 4), ("b", 4), ("c", 4), ("d", 4)]
    assert partition(tensors, 2, "strided") == partition(tensors, 2, "balanced")


def test_modules_are_named_and_the_last_fragment_takes_the_rest() -> None:
    fragments = partition(GPT_LIKE, 3, "modules", ["blocks.0, blocks.5", "head", "norm"])
    assert layers(fragments[0]) == [0, 5]
    assert names(fragments[1]) == ["head.weight"]
    assert layers(fragments[2]) == [1, 2, 3, 4]
    assert "embedding.weight" in names(fragments[2])


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        (["block.0", "head"], "did you mean blocks.0"),
        (["blocks", "blocks.1"], "into two fragments"),
        (["blocks"], "1 entries for 2 fragments"),
    ],
)
def test_modules_that_do_not_fit_are_refused(modules: list[str], reason: str) -> None:
    with pytest.raises(LayoutError, match=reason):
        partition(GPT_LIKE, 2, "modules", modules)


def test_a_layout_of_strided_fragments_has_every_tensor_once_with_its_fragment_in_the_manifest() -> None:
    model = GPT(layers=4, heads=2, width=16, context=8)
    layout = Layout.of(model, 2, pattern="strided")
    assert sum(layout.num_elements(f) for f in range(2)) == sum(p.numel() for p in model.parameters())
    assert "1 blocks.1.norm_feed.weight" in layout.manifest().text
    assert layout.manifest() != Layout.of(model, 2, pattern="sequential").manifest()


def test_a_plain_model_takes_module_names() -> None:
    model = nn.ModuleDict({"left": nn.Linear(2, 3), "right": nn.Linear(3, 2)})
    layout = Layout.of(model, 2, pattern="modules", modules=("right", "left"))
    assert [spec.name for spec in layout.fragments[0]] == ["right.weight", "right.bias"]
