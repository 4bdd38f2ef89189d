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
