"""Two bits per value: the bins, levels and layout that the classes promise, against naive twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diloco.compression.codecs.two_bits import BLOCK, Int2, Int2Linear
from diloco.errors import NonFinite


def normal(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(5)) + 0.3


def codes_in(payload: bytes, num_numbers: int, n: int) -> list[int]:
    """The codes behind the numbers of all blocks: four in a byte, the first in the lowest bits."""
    codes = [byte >> shift & 3 for byte in payload[2 * num_numbers :] for shift in (0, 2, 4, 6)]
    assert not any(codes[n:]), "spare bits are zero"
    return codes[:n]


def as_bf16(*numbers: float) -> bytes:
    return torch.tensor(numbers, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()


def naive_int2(x: Tensor) -> tuple[list[int], list[float]]:
    """Codes and levels of one block: bins at -1.5, 0 and 1.5 deviations from the mean, each the mean of what
    is in it."""
    values = x.double().numpy()
    mean, width = values.mean(), 1.5 * values.std()
    codes = [sum(value - mean > edge for edge in (-width, 0.0, width)) for value in values]
    bins = [values[np.array(codes) == level] for level in range(4)]
    return codes, [float(each.mean()) if len(each) else 0.0 for each in bins]


def test_int2_puts_values_into_bins_by_deviation_and_decodes_each_as_its_bins_mean() -> None:
    x = normal(2 * BLOCK + 101)
    payload = bytes(Int2().encode(x))
    num_numbers = 4 * 3
    assert len(payload) == 2 * num_numbers + math.ceil(len(x) / 4)
    codes = codes_in(payload, num_numbers, len(x))
    decoded = Int2().decode(payload, len(x))
    for start in range(0, len(x), BLOCK):
        block = slice(start, start + BLOCK)
        wanted, levels = naive_int2(x[block])
        assert codes[block] == wanted
        exact = torch.tensor([levels[code] for code in wanted])
        assert torch.allclose(decoded[block], exact, rtol=2.0**-8, atol=0)


def test_int2_decodes_whatever_levels_a_block_has() -> None:
    payload = as_bf16(-3.0, 0.5, 8.0, -1.0) + bytes([0b11100100, 0b01])
    assert Int2().decode(payload, 5).tolist() == [-3.0, 0.5, 8.0, -1.0, 0.5]


def test_int2_of_equal_values_has_one_bin_that_is_used() -> None:
    payload = bytes(Int2().encode(torch.full((6,), 2.0)))
    assert Int2().decode(payload, 6).tolist() == [2.0] * 6
    assert sum(payload[i : i + 2] == as_bf16(2.0) for i in range(0, 8, 2)) == 1


def test_int2_linear_has_levels_at_odd_quarters_of_the_largest_magnitude() -> None:
    x = torch.tensor([-4.0, -2.5, -2.0, -1.9, 0.0, 0.1, 2.0, 2.1, 3.9])
    payload = bytes(Int2Linear().encode(x))
    assert payload[:2] == as_bf16(4.0)
    assert codes_in(payload, 1, len(x)) == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert Int2Linear().decode(payload, len(x)).tolist() == [-3, -3, -3, -1, -1, 1, 1, 3, 3]


def test_a_block_of_1024_has_a_codebook_and_four_codes_share_a_byte() -> None:
    assert [Int2().size_bytes(n) for n in (0, 1, 1024, 2049)] == [0, 8 + 1, 8 + 256, 24 + 513]
    assert [Int2Linear().size_bytes(n) for n in (0, 1, 1024, 2049)] == [0, 2 + 1, 2 + 256, 6 + 513]


def test_blocks_have_codebooks_of_their_own() -> None:
    x = torch.cat([torch.full((BLOCK,), 1.0), torch.full((BLOCK,), 100.0)])
    assert Int2().decode(Int2().encode(x), 2 * BLOCK).tolist() == x.tolist()


@pytest.mark.parametrize("level", [float("inf"), float("nan"), 3e38])
def test_levels_that_encoding_never_writes_are_refused(level: float) -> None:
    with pytest.raises(NonFinite, match="levels are not finite or too large"):
        Int2().decode(as_bf16(0.0, level, 1.0, 2.0) + b"\x00", 4)
    with pytest.raises(NonFinite):
        Int2Linear().decode(as_bf16(level) + b"\x00", 4)
