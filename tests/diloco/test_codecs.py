"""Codecs: exact sizes, bounded errors, the same bits everywhere, and refusal of what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diloco.codecs import BLOCK, CODECS, SCALE_MAX, SCALE_MIN, NonFinite, WrongSize, codec
from diloco.methods import CODEC_NAMES
from diloco.vectors import SLICE, count_non_finite

NAMES = sorted(CODECS)
SIZES = [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, SLICE, SLICE + 1, 2 * SLICE + BLOCK + 5]
BAD = [float("nan"), float("inf"), -float("inf")]


def normal(n: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * scale


def int8_twin(payload: bytes, n: int) -> np.ndarray:
    """Decoding in the plainest words."""
    blocks = -(-n // BLOCK)
    scales = np.frombuffer(payload[: 4 * blocks], dtype="<f4")
    values = np.frombuffer(payload[4 * blocks :], dtype=np.int8)
    return np.array([np.float32(q) * scales[i // BLOCK] for i, q in enumerate(values)], dtype=np.float32)


def test_the_table_of_codecs_is_the_list_that_needs_no_torch() -> None:
    assert tuple(CODECS) == CODEC_NAMES


def test_an_unknown_codec_is_refused_with_the_allowed_names() -> None:
    with pytest.raises(ValueError, match=r"int9.*fp32, bf16, int8"):
        codec("int9")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", SIZES)
def test_the_size_is_exact_and_decoding_comes_back_close(name: str, n: int) -> None:
    coder, x = codec(name), normal(n)
    payload = coder.encode(x)
    assert memoryview(payload).nbytes == coder.size_bytes(n)
    decoded = coder.decode(payload, n)
    bound = {"fp32": 0.0, "bf16": 2.0**-8, "int8": 0.5 / 127 * 1.0001}[name]
    largest = float(x.abs().max()) if n else 0.0
    assert (decoded - x).abs().le(bound * largest).all()


@pytest.mark.parametrize("name", NAMES)
def test_encoding_twice_gives_the_same_bytes_whatever_came_between(name: str) -> None:
    coder, x = codec(name), normal(SLICE + 3)
    first = bytes(coder.encode(x))
    coder.encode(normal(2 * SLICE, seed=1))
    assert bytes(coder.encode(x)) == first


@pytest.mark.parametrize("name", NAMES)
def test_what_was_decoded_encodes_to_the_same_values_again(name: str) -> None:
    coder, x = codec(name), normal(1000)
    once = coder.decode(coder.encode(x), 1000)
    twice = coder.decode(coder.encode(once), 1000)
    assert torch.allclose(once, twice, rtol=1e-6, atol=0)


def test_fp32_of_a_cpu_slice_is_not_copied() -> None:
    x = normal(100)
    assert np.shares_memory(np.asarray(codec("fp32").encode(x[10:20])), x.numpy())


def test_int8_decodes_as_its_naive_twin_does_bit_for_bit() -> None:
    n = 3 * BLOCK + 7
    payload = bytes(codec("int8").encode(normal(n)))
    assert np.array_equal(codec("int8").decode(payload, n).numpy(), int8_twin(payload, n))


def test_int8_rounds_ties_to_even() -> None:
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    assert codec("int8").decode(codec("int8").encode(x), 7).tolist() == [127, 0, 2, 2, 0, -2, -2]


def test_an_int8_block_of_zeros_has_scale_zero_and_comes_back_as_zeros() -> None:
    x = torch.cat([torch.zeros(BLOCK), torch.ones(BLOCK)])
    payload = bytes(codec("int8").encode(x))
    assert np.frombuffer(payload[:4], dtype="<f4")[0] == 0.0
    assert torch.equal(codec("int8").decode(payload, 2 * BLOCK), x)


def test_int8_sends_a_denormal_block_as_zeros_and_the_smallest_normal_scale_as_it_is() -> None:
    tiny = torch.full((BLOCK,), 1e-40)
    assert codec("int8").decode(codec("int8").encode(tiny), BLOCK).eq(0).all()
    small = torch.full((BLOCK,), SCALE_MIN * 127 * 1.01)
    assert torch.allclose(codec("int8").decode(codec("int8").encode(small), BLOCK), small, rtol=1e-6, atol=0)


def test_int8_holds_the_largest_magnitudes_and_refuses_the_few_above() -> None:
    largest = torch.tensor([SCALE_MAX * 127 * 0.999, -1.0])
    assert codec("int8").decode(codec("int8").encode(largest), 2).isfinite().all()
    with pytest.raises(NonFinite, match="1 values are not finite"):
        codec("int8").encode(torch.tensor([torch.finfo(torch.float32).max, 1.0]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", [0, SLICE - 1, SLICE, SLICE + 9])
def test_no_codec_encodes_what_is_not_finite_and_it_says_how_many(name: str, bad: float, where: int) -> None:
    x = normal(SLICE + 10)
    x[where] = bad
    x[5] = bad
    with pytest.raises(NonFinite) as caught:
        codec(name).encode(x)
    assert caught.value.count == 2


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_no_codec_decodes_or_adds_what_is_not_finite(name: str, bad: float) -> None:
    n = SLICE + 10
    coder = codec(name)
    payload = bytearray(coder.encode(normal(n)))
    if name == "bf16":
        payload[-2:] = torch.tensor([bad], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    elif name == "fp32":
        payload[-4:] = np.array([bad], dtype="<f4").tobytes()
    else:
        payload[:4] = np.array([bad], dtype="<f4").tobytes()
    with pytest.raises(NonFinite):
        coder.decode(bytes(payload), n)
    with pytest.raises(NonFinite):
        coder.add(torch.zeros(n), bytes(payload), 0.5)


@pytest.mark.parametrize("scale", [-1.0, SCALE_MAX * 1.01])
def test_int8_refuses_scales_that_encode_never_writes(scale: float) -> None:
    payload = np.array([scale], dtype="<f4").tobytes() + b"\x80"
    with pytest.raises(NonFinite, match="1 block scales"):
        codec("int8").decode(payload, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_payload_of_another_size_is_refused(name: str, change: int) -> None:
    coder = codec(name)
    payload = bytes(coder.size_bytes(10) + change)
    with pytest.raises(WrongSize):
        coder.decode(payload, 10)
    with pytest.raises(WrongSize):
        coder.add(torch.zeros(10), payload, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_adding_rounds_multiply_and_add_separately(name: str) -> None:
    n, weight = 2 * SLICE + 17, 1 / 3
    coder, total = codec(name), normal(n, seed=2)
    payload = bytes(coder.encode(normal(n)))
    decoded = coder.decode(payload, n).numpy()
    expected = total.numpy() + decoded * np.float32(weight)
    coder.add(total, payload, weight)
    assert np.array_equal(total.numpy(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_may_lie_at_any_address_in_read_only_memory(name: str) -> None:
    coder, x = codec(name), normal(300)
    shifted = memoryview(b"\0" + bytes(coder.encode(x)))[1:]
    assert torch.equal(coder.decode(shifted, 300), coder.decode(bytes(shifted), 300))


@pytest.mark.parametrize("members", range(2, 9))
def test_the_int8_mean_of_normal_vectors_is_within_1_2_percent_and_unbiased(members: int) -> None:
    n = 1 << 16
    coder, total, exact = codec("int8"), torch.zeros(n), torch.zeros(n)
    for member in range(members):
        x = normal(n, seed=member, scale=1e-3)
        exact += x / members
        coder.add(total, coder.encode(x), 1 / members)
    error = coder.decode(coder.encode(total), n) - exact
    rms = exact.square().mean().sqrt()
    assert error.square().mean().sqrt() <= 0.012 * rms
    assert error.double().mean().abs() < 1e-4 * rms


floats = st.floats(width=32, allow_nan=False, min_value=-(2.0**127), max_value=2.0**127)


@settings(max_examples=40, deadline=None)
@given(st.lists(floats, max_size=2 * BLOCK + 3))
def test_int8_errs_by_at_most_half_a_scale_for_any_finite_values(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    decoded = codec("int8").decode(codec("int8").encode(x), len(x))
    assert decoded.isfinite().all()
    for block, result in zip(x.split(BLOCK), decoded.split(BLOCK), strict=True):
        scale = float(block.abs().max()) / 127 if len(block) else 0.0
        bound = max(0.5001 * scale, 127 * SCALE_MIN)
        assert (result.double() - block.double()).abs().le(bound).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 600), st.binary(max_size=2500))
def test_any_bytes_decode_to_finite_values_or_are_refused(name: str, n: int, data: bytes) -> None:
    coder = codec(name)
    data = data[: coder.size_bytes(n)].ljust(coder.size_bytes(n), b"\x7f")
    try:
        decoded = coder.decode(data, n)
    except NonFinite:
        return
    assert decoded.shape == (n,)
    assert decoded.isfinite().all()


def test_counting_what_is_not_finite() -> None:
    assert count_non_finite(torch.zeros(0)) == 0
    assert count_non_finite(torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("name", NAMES)
def test_an_accelerator_decodes_to_the_bits_of_a_cpu(name: str) -> None:
    n = SLICE + 9
    x, coder = normal(n), codec(name)
    payload = bytes(coder.encode(x.cuda()))
    out = torch.empty(n, device="cuda")
    coder.decode(payload, n, out)
    assert torch.equal(out.cpu(), coder.decode(payload, n))
    total = torch.zeros(n, device="cuda")
    coder.add(total, payload, 0.3)
    expected = torch.zeros(n)
    coder.add(expected, payload, 0.3)
    assert torch.equal(total.cpu(), expected)
