"""Parts of tensors on ranks: what placements mean, and that each value is handed in once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diloco.errors import LayoutError
from diloco.training.site_boxes import Box, FragmentPlan, Piece, box_of, bundles, length


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), ranks=st.integers(1, 5), dim=st.integers(0, 1))
def test_a_shard_is_what_torch_cuts(rows: int, columns: int, ranks: int, dim: int) -> None:
    tensor = torch.arange(rows * columns).view(rows, columns)
    cut = [*tensor.chunk(ranks, dim), *[tensor.narrow(dim, 0, 0)] * ranks]
    for rank in range(ranks):
        box = box_of((rows, columns), (ranks,), (rank,), (dim,))
        assert torch.equal(tensor[box.slices], cut[rank])
        assert box.num_elements == cut[rank].numel()


def test_a_tensor_cut_along_two_sides_of_a_mesh_is_cut_twice() -> None:
    boxes = [box_of((6, 4), (2, 2), (i, j), (0, 1)) for i in range(2) for j in range(2)]
    assert [box.start for box in boxes] == [(0, 0), (0, 2), (3, 0), (3, 2)]
    assert {box.shape for box in boxes} == {(3, 2)}
    assert box_of((7,), (2, 2), (1, 0), (0, 0)) == Box((4,), (2,))


def test_of_replicas_one_hands_in_what_both_have() -> None:
    halves = [Box((0,), (2,)), Box((2,), (1,))]
    plan = FragmentPlan(["w"], [(3,)], [[halves[0]], [halves[1]], [halves[0]], [halves[1]]])
    assert [len(each) for each in plan.gives] == [1, 1, 0, 0]
    assert plan.held[3] == [Piece(0, halves[1])]
    assert not plan.is_whole


def test_what_all_ranks_have_is_handed_in_by_the_first() -> None:
    plan = FragmentPlan(["w", "b"], [(3, 2), ()], [[Box.whole((3, 2)), Box.whole(())]] * 3)
    assert plan.is_whole
    assert [length(each) for each in plan.gives] == [7, 0, 0]


def test_ranks_that_lack_a_part_are_refused_by_name() -> None:
    with pytest.raises(LayoutError, match=r"have 2 of the 3 values of layer\.weight"):
        FragmentPlan(["layer.weight"], [(3,)], [[Box((0,), (2,))], [Box((0,), (2,))]])
    with pytest.raises(LayoutError, match="have 4 of the 3 values"):
        FragmentPlan(["w"], [(3,)], [[Box((0,), (2,))], [Box((1,), (2,))]])


def test_messages_are_as_long_as_they_may_be_and_none_is_empty() -> None:
    pieces = [Piece(i, Box((0,), (size,))) for i, size in enumerate([3, 0, 4, 2, 9, 1])]
    found = [[piece.tensor for piece in bundle] for bundle in bundles(pieces, at_once=7)]
    assert found == [[0, 2], [3], [4], [5]]
    assert list(bundles([])) == []
