"""Codecs of rows: a naive twin's bytes, no block across rows, rounding by chance right in the mean."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from torch import Tensor

from diloco.compression.codecs import codec
from diloco.compression.row_codecs import ROW_CODECS, rotate, rotate_back, row_codec
from diloco.errors import NonFinite, WrongSize

pytestmark = pytest.mark.usefixtures("both_ways")
WITH_BLOCKS = ("int8", "int4", "int4_rotated")
SHAPES = [(3, 256), (3, 128), (2, 300), (2, 64), (3, 100), (4, 33), (3, 8), (3, 6), (2, 1)]


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Rows of different magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 2, rows)[:, None]


def there_and_back(name: str, x: Tensor, draws: list[int] | None = None) -> Tensor:
    return row_codec(name).decode(bytes(row_codec(name).encode(x, draws)), *x.shape)


def naive_block(values: list[float], top: int, *, half: bool) -> tuple[float, list[int]]:
    """Scale and codes, in Python's own floats, rounded where the codec rounds."""
    scale = np.float32(max(map(abs, values))) / np.float32(top)
    if half:
        scale = torch.tensor(scale).bfloat16().float().numpy()[()]
    inverse = np.float32(1) / scale if scale else np.float32(0)
    return float(scale), [max(-top, min(top, round(float(np.float32(v) * inverse)))) for v in values]


def naive(x: Tensor, bits: int) -> bytes:
    columns = x.shape[1]
    block = min(256, columns) if bits == 8 else min(64, max(2, 2 ** math.ceil(math.log2(columns))))
    scales, codes = b"", b""
    for row in x.tolist():
        for at in range(0, columns, block):
            values = row[at : at + block]
            if bits == 8:
                scale, found = naive_block(values, 127, half=False)
                scales += struct.pack("<f", scale)
                codes += struct.pack(f"<{len(found)}b", *found)
            else:
                scale, found = naive_block(values + [0.0] * (block - len(values)), 7, half=True)
                scales += struct.pack("<f", scale)[2:]
                codes += bytes(
                    a & 15 | (b & 15) << 4
                    for a, b in zip(found[: block // 2], found[block // 2 :], strict=True)
                )
    return scales + codes


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4)])
def test_bytes_are_those_of_a_naive_twin(name: str, bits: int, rows: int, columns: int) -> None:
    x = matrix(rows, columns)
    assert bytes(row_codec(name).encode(x)) == naive(x, bits)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("name", ROW_CODECS)
@pytest.mark.parametrize("draws", [None, [5, 1]], ids=["nearest", "chance"])
def test_the_size_follows_from_the_shape(name: str, draws: list[int] | None, rows: int, columns: int) -> None:
    coder = row_codec(name)
    size = coder.size_bytes(rows, columns)
    assert len(memoryview(coder.encode(matrix(rows, columns), draws))) == size
    for wrong in (size - 1, size + 1, 0):
        with pytest.raises(WrongSize):
            coder.decode(bytes(wrong), rows, columns)


@pytest.mark.parametrize("columns", [256, 128, 100, 8])
@pytest.mark.parametrize("name", ROW_CODECS)
def test_no_row_changes_what_another_decodes_to(name: str, columns: int) -> None:
    x = matrix(3, columns)
    for draws in (None, [1]):
        whole = there_and_back(name, x, draws)
        y = x.clone()
        y[1] *= 1000
        assert torch.equal(there_and_back(name, y, draws)[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("columns", [256, 300, 64, 8])
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_rounding_by_chance_is_right_in_the_mean_and_replays(name: str, columns: int) -> None:
    row = matrix(2, columns)[1:]
    x = row.expand(400, columns)
    found = there_and_back(name, x, [7, 1])
    assert torch.equal(there_and_back(name, x, [7, 1]), found)
    assert not torch.equal(there_and_back(name, x, [8, 1]), found)
    mean, near = found.double().mean(0), there_and_back(name, row)[0]
    step = row.abs().max() / (127 if name == "int8" else 7)
    assert ((mean - row[0]).abs() < 0.15 * step).all()  # six deviations of a mean of 400
    assert (mean - row[0]).norm() < 0.25 * (near - row[0]).norm()


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_what_needs_no_rounding_is_not_rounded_by_chance(name: str) -> None:
    """Zeros stay zeros: what was left out of the loss has no gradient."""
    x = torch.zeros(2, 64)
    x[1, :] = torch.tensor([-7.0, 3.0, 0.0, 7.0]).repeat(16)
    decoded = there_and_back(name, x, [3])
    assert not decoded[0].any()
    if name == "int4":
        assert torch.equal(decoded, x)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_the_rotation_keeps_lengths_shares_large_values_and_comes_back(n: int) -> None:
    x = torch.randn(5, n, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotate(x).norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(rotate_back(rotate(x)), x)
    one = torch.zeros(1, n)
    one[0, n // 2] = 3.0
    torch.testing.assert_close(rotate(one).abs(), torch.full((1, n), 3.0 / math.sqrt(n)))
    assert rotate(torch.ones(1, 64)).abs().max() < 4.0  # a mean is no large value: 8 without signs


def test_the_rotation_helps_where_few_channels_are_large() -> None:
    x = matrix(8, 128)
    x[:, [3, 70]] *= 30
    errors = {name: (there_and_back(name, x) - x)[:, :3].norm() for name in ("int4", "int4_rotated")}
    assert errors["int4_rotated"] < 0.5 * errors["int4"]


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_where_blocks_fill_rows_it_is_the_vector_codec(name: str) -> None:
    x = matrix(4, 512)
    payload = bytes(codec(name).encode(x.view(-1)))
    assert bytes(row_codec(name).encode(x)) == payload
    assert torch.equal(row_codec(name).decode(payload, 4, 512).view(-1), codec(name).decode(payload, 2048))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("columns", [256, 64, 8])
@pytest.mark.parametrize("name", ROW_CODECS)
def test_what_is_not_finite_is_not_encoded(name: str, columns: int, bad: float) -> None:
    x = matrix(2, columns)
    x[1, 3] = bad
    for draws in (None, [1]):
        with pytest.raises(NonFinite) as caught:
            row_codec(name).encode(x, draws)
        assert caught.value.count >= 1  # those of the whole block, where it was rotated


@pytest.mark.parametrize("columns", [256, 64, 8])
@pytest.mark.parametrize("name", ROW_CODECS)
def test_what_is_not_finite_or_negative_in_a_payload_is_not_decoded(name: str, columns: int) -> None:
    coder = row_codec(name)
    payload = bytearray(coder.encode(matrix(2, columns)))
    whole = 4 if name in ("fp32", "int8") else 2
    payload[:whole] = struct.pack("<f", math.nan)[-whole:]
    with pytest.raises(NonFinite):
        coder.decode(payload, 2, columns)
    if name in WITH_BLOCKS:
        payload[:whole] = struct.pack("<f", -1.0)[-whole:]
        with pytest.raises(NonFinite):
            coder.decode(payload, 2, columns)


def test_large_matrices_are_done_in_pieces_with_the_same_bytes() -> None:
    x = matrix(3000, 100)
    for draws in (None, [4]):
        for name in WITH_BLOCKS:
            whole = there_and_back(name, x, draws)
            if draws is None:
                assert torch.equal(whole[2700:], there_and_back(name, x[2700:]))
            assert (whole - x).norm() < (0.02 if name == "int8" else 0.25) * x.norm()


def test_a_transposed_matrix_and_one_with_a_graph_are_encoded_by_their_values() -> None:
    x = matrix(64, 8).t()
    for name in ROW_CODECS:
        expected = bytes(row_codec(name).encode(x.contiguous()))
        assert bytes(row_codec(name).encode(x)) == expected
        assert bytes(row_codec(name).encode(x.clone().requires_grad_())) == expected


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'int3' is unknown for rows: choose one of fp32, bf16, int8, int4"):
        row_codec("int3")
