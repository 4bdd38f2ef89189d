"""A boundary takes the tensor that was agreed on, and names what differs in any other."""

from __future__ import annotations

import pytest
import torch

from diloco.errors import BoundaryError, PipelineError
from diloco.pipeline.boundary import Boundary


def test_rows_and_columns_are_those_of_the_matrix_that_travels() -> None:
    assert (Boundary((2, 5, 8)).rows, Boundary((2, 5, 8)).columns) == (10, 8)
    assert (Boundary((8,)).rows, Boundary((8,)).columns) == (1, 8)
    assert Boundary((1, 1)).rows == 1
    assert str(Boundary((2, 5, 8), torch.bfloat16)) == "[2, 5, 8] bfloat16"


def test_what_fits_is_handed_back() -> None:
    x = torch.randn(2, 3)
    assert Boundary((2, 3)).require(x, "it") is x


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(2, 4), r"it is \[2, 4\] float32, and the boundary is \[2, 3\] float32"),
        (torch.zeros(6), r"it is \[6\] float32"),
        (torch.zeros(2, 3).bfloat16(), r"it is \[2, 3\] bfloat16, and the boundary is \[2, 3\] float32"),
        ((torch.zeros(2, 3), None), "it is of type tuple, not one tensor"),
        (torch.tensor([[1.0, float("nan"), 2], [float("inf"), 0, 1]]), "it has 2 of 6 values that are not"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(x: object, text: str) -> None:
    with pytest.raises(BoundaryError, match=text) as caught:
        Boundary((2, 3)).require(x, "it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (0, 3), (2, -1)], ids=str)
def test_a_shape_without_elements_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PipelineError, match="has no elements"):
        Boundary(shape)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
def test_a_dtype_that_no_boundary_has_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(PipelineError, match=f"a boundary of {str(dtype).removeprefix('torch.')}"):
        Boundary((2, 3), dtype)


def test_ids_are_whole_numbers_in_the_last_column() -> None:
    edge = Boundary((2, 3), ids=256)
    assert (edge.columns, edge.num_values, Boundary((2, 3)).num_values) == (3, 2, 3)
    assert str(edge) == "[2, 3] float32 with ids below 256"
    fine = torch.tensor([[0.5, -1.0, 0.0], [0.5, 2.0, 255.0]])
    assert edge.require(fine, "it") is fine
    for wrong in (256.0, -1.0, 0.5):
        x = fine.clone()
        x[1, 2] = wrong
        with pytest.raises(BoundaryError, match="it has 1 ids that are no whole numbers from 0 to 255"):
            edge.require(x, "it")


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 2**24), (torch.float16, 2**11), (torch.bfloat16, 2**8)], ids=str
)
def test_ids_that_a_dtype_cannot_tell_apart_are_refused(dtype: torch.dtype, most: int) -> None:
    edge = Boundary((1, 2), dtype, ids=most)
    x = torch.tensor([[0.0, float(most - 1)]]).to(dtype)
    assert edge.require(x, "it")[0, 1].item() == most - 1
    with pytest.raises(PipelineError, match=f"tells ids below {most} apart, and not {most + 1}"):
        Boundary((1, 2), dtype, ids=most + 1)


def test_ids_alone_are_no_boundary() -> None:
    with pytest.raises(PipelineError, match="it needs a column more"):
        Boundary((2, 1), ids=5)
