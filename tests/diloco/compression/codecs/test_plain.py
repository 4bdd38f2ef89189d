"""Plain codecs: what they round is what IEEE says, and what is too large for a half is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diloco.compression.codecs.plain import Bf16, Fp16, Fp32
from diloco.errors import NonFinite

pytestmark = pytest.mark.usefixtures("both_ways")


def values(n: int = 5000) -> Tensor:
    """Of all magnitudes that a half holds, with ties and both signs."""
    generator = torch.Generator().manual_seed(3)
    exponents = torch.randint(-20, 15, (n,), generator=generator).float()
    return torch.cat(
        [
            torch.randn(n, generator=generator) * exponents.exp2(),
            torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 0.0]),
        ]
    )


def naive_bf16(x: Tensor) -> bytes:
    """The upper half of each fp32, after rounding to the nearest and ties to even, in integers."""
    bits = x.numpy().view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def test_bf16_is_the_upper_half_of_each_value_rounded_to_even() -> None:
    assert bytes(Bf16().encode(values())) == naive_bf16(values())


def test_fp16_is_what_numpy_rounds_to() -> None:
    assert bytes(Fp16().encode(values())) == values().numpy().astype("<f2").tobytes()


def test_fp16_ends_at_65504_and_begins_at_6e_8() -> None:
    ends = torch.tensor([65504.0, -65519.0, 6e-8, 2e-8])
    decoded = Fp16().decode(Fp16().encode(ends), 4).tolist()
    assert decoded == [65504.0, -65504.0, 2.0**-24, 0.0]
    with pytest.raises(NonFinite, match=r"too large for torch\.float16") as caught:
        Fp16().encode(torch.tensor([65520.0, 1.0, -1e30]))
    assert caught.value.count == 2


def test_bf16_takes_all_of_fp32_but_what_rounds_to_infinity() -> None:
    largest = torch.tensor([3.38e38])
    assert Bf16().decode(Bf16().encode(largest), 1).isfinite().all()
    with pytest.raises(NonFinite):
        Bf16().encode(torch.tensor([torch.finfo(torch.float32).max]))


def test_fp32_hands_out_its_own_memory_and_only_checks_what_is_decoded_into_it() -> None:
    x = values()
    payload = Fp32().encode(x)
    assert Fp32().decode(payload, len(x), out=x) is x
    x[7] = float("nan")  # so is the payload
    with pytest.raises(NonFinite):
        Fp32().decode(payload, len(x), out=x)
    assert [coder.shares_memory for coder in (Fp32(), Fp16(), Bf16())] == [True, False, False]


@pytest.mark.parametrize("coder", [Fp32(), Fp16(), Bf16()], ids=lambda coder: coder.name)
def test_the_first_part_of_a_sum_replaces_what_was_there(coder: Fp32 | Fp16 | Bf16) -> None:
    x = torch.tensor([1.0, -2.0, 0.5])
    total = torch.full((3,), float("nan"))
    coder.add(total, coder.encode(x), 0.5, first=True)
    coder.add(total, coder.encode(x), 0.25)
    assert total.tolist() == [0.75, -1.5, 0.375]
