"""Vectors: their bytes and back without needless copies, slices that cover them, and finiteness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diloco.compression.vectors import (
    SLICE,
    Scratch,
    VectorDevice,
    all_finite,
    bytes_of,
    count_non_finite,
    fill,
    items_of,
    spans,
)


def test_bytes_of_a_contiguous_tensor_are_its_own_memory_and_of_another_a_copy() -> None:
    x = torch.arange(6, dtype=torch.float32).view(2, 3)
    assert np.shares_memory(np.asarray(bytes_of(x)), x.numpy())
    assert bytes(bytes_of(x.t())) == x.t().contiguous().numpy().tobytes()
    assert bytes(bytes_of(torch.empty(0))) == b""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_items_are_read_in_place_where_memory_allows_and_copied_where_it_does_not(
    dtype: torch.dtype,
) -> None:
    x = torch.tensor([1, 2, 3]).to(dtype)
    received = bytearray(bytes_of(x))
    assert torch.equal(items_of(received, dtype), x)
    assert items_of(received, dtype).data_ptr() == np.frombuffer(received, np.uint8).ctypes.data
    assert torch.equal(items_of(bytes(received), dtype), x), "read-only"
    shifted = memoryview(bytearray(b"x" + received))[1:]
    assert torch.equal(items_of(shifted, dtype), x), "not aligned"


def test_filling_a_tensor_takes_read_only_bytes() -> None:
    x = torch.tensor([1.5, -2.0])
    out = torch.empty(2)
    fill(out, bytes(bytes_of(x)))
    assert torch.equal(out, x)


@pytest.mark.parametrize("n", [0, 1, SLICE, SLICE + 1, 2 * SLICE + 5])
def test_spans_cover_a_vector_once_and_in_order(n: int) -> None:
    found = list(spans(torch.empty(n)))
    assert [index for each in found for index in (each.start, each.stop)] == sorted(
        [0, *(k for k in range(SLICE, n, SLICE) for _ in "ab"), n] if n else []
    )
    assert all(each.stop - each.start <= SLICE for each in found)


def test_what_is_not_finite_is_counted_and_large_sums_are_not_mistaken_for_it() -> None:
    largest = torch.finfo(torch.float32).max
    assert all_finite(torch.tensor([largest, largest]))
    assert all_finite(torch.empty(0))
    x = torch.tensor([1.0, torch.inf, -torch.inf, torch.nan])
    assert not all_finite(x)
    assert not all_finite(x[1:3]), "they do not cancel"
    assert (count_non_finite(x), count_non_finite(x[:1])) == (3, 0)


def test_scratch_is_the_same_memory_until_more_is_needed() -> None:
    scratch, cpu = Scratch(torch.float32), torch.device("cpu")
    first = scratch.of(10, cpu)
    assert scratch.of(4, cpu).data_ptr() == first.data_ptr()
    assert len(scratch.of(4, cpu)) == 4
    assert len(scratch.of(11, cpu)) == 11


def test_vectors_beside_tensors_on_the_cpu_are_in_ordinary_memory() -> None:
    device = VectorDevice.beside([torch.empty(2)])
    assert not device.pinned
    assert device.zeros(3).tolist() == [0.0, 0.0, 0.0]
    assert not device.empty(3).is_pinned()
