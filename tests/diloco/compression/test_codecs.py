"""Codecs: exact sizes, bounded errors, the same bits everywhere, and refusal of what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diloco.compression.codecs import Codec, codec
from diloco.compression.codecs.base import LARGEST_SURE, SCALE_MAX, SCALE_MIN
from diloco.compression.codecs.blocks import BLOCK
from diloco.compression.codecs.topk import CHUNK
from diloco.compression.vectors import SLICE, count_non_finite
from diloco.errors import CodecError, NonFinite, WrongSize
from diloco.methods.wire_formats import WIRE_FORMATS

pytestmark = pytest.mark.usefixtures("both_ways")
NAMES = sorted(WIRE_FORMATS)
SIZES = [
    0,
    1,
    2,
    63,
    64,
    1025,
    4097,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    3 * BLOCK + 7,
    SLICE,
    SLICE + 1,
    2 * SLICE + BLOCK + 5,
]
BAD = [float("nan"), float("inf"), -float("inf")]


def normal(n: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * scale


def int8_twin(payload: bytes, n: int) -> np.ndarray:
    """Decoding in the plainest words."""
    blocks = -(-n // BLOCK)
    scales = np.frombuffer(payload[: 4 * blocks], dtype="<f4")
    values = np.frombuffer(payload[4 * blocks :], dtype=np.int8)
    return np.array([np.float32(q) * scales[i // BLOCK] for i, q in enumerate(values)], dtype=np.float32)


def test_an_unknown_codec_is_refused_with_the_allowed_names() -> None:
    with pytest.raises(ValueError, match=r"int9.*fp32, fp16, bf16, int8"):
        codec("int9")


BOUNDS = {
    "fp32": 0.0,
    "fp16": 2.0**-11,
    "bf16": 2.0**-8,
    "int8": 0.5 / 127 * 1.0001,
    "int4": 0.5 / 7 * 1.06,
    "fp4": 0.26,
}
"""Largest error over the largest magnitude."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", SIZES)
def test_the_size_is_exact_and_decoding_comes_back_close(name: str, n: int) -> None:
    coder, x = codec(name), normal(n)
    payload = coder.encode(x)
    assert memoryview(payload).nbytes == coder.size_bytes(n)
    decoded = coder.decode(payload, n)
    assert decoded.shape == (n,)
    if name in BOUNDS:
        largest = float(x.abs().max()) if n else 0.0
        assert (decoded - x).abs().le(BOUNDS[name] * largest).all()


BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8 + 1 / 8, "int4": 4.25, "fp4": 4.25}


@pytest.mark.parametrize("name", BITS)
def test_a_long_vector_takes_so_many_bits_per_element(name: str) -> None:
    assert codec(name).size_bytes(1 << 20) * 8 == BITS[name] * (1 << 20)


@pytest.mark.parametrize(("bits", "expected"), [(2, 14.5), (4, 16.25), (8, 20.25), (16, 28)])
def test_topk_takes_so_many_bits_per_kept_value(bits: int, expected: float) -> None:
    size = codec("topk", keep=64, value_bits=bits).size_bytes(256 * CHUNK)
    assert size * 8 == expected * 64 * 256


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-42])
def test_equal_values_come_back_close(name: str, value: float) -> None:
    if name == "topk":
        return  # it keeps only some of them
    decoded = codec(name).decode(codec(name).encode(torch.full((130,), value)), 130)
    share = 0.26 if name == "int2_linear" else 0.005
    assert (decoded - value).abs().le(max(share * abs(value), 1e-37 if name != "fp16" else 1e-7)).all()


@pytest.mark.parametrize("name", NAMES)
def test_pieces_from_multiples_of_4096_encode_as_the_whole_does(name: str) -> None:
    x, coder = normal(3 * CHUNK + 100), codec(name)
    whole = coder.decode(coder.encode(x), len(x))
    pieces = [
        coder.decode(coder.encode(p), len(p)) for p in (x[:CHUNK], x[CHUNK : 3 * CHUNK], x[3 * CHUNK :])
    ]
    assert torch.equal(torch.cat(pieces), whole)


def errors(name: str, x: Tensor) -> float:
    coder = codec(name)
    return float((coder.decode(coder.encode(x), len(x)) - x).norm() / x.norm())


def test_at_two_bits_bins_that_follow_the_data_are_better() -> None:
    assert errors("int2", normal(1 << 16)) < 0.85 * errors("int2_linear", normal(1 << 16))


@pytest.mark.parametrize(
    ("name", "max_error"), [("int8", 0.008), ("int4", 0.12), ("fp4", 0.2), ("int2", 0.42)]
)
def test_the_error_on_normal_values_is_as_expected(name: str, max_error: float) -> None:
    assert errors(name, normal(1 << 16)) < max_error


def test_fp4_values_are_powers_of_two_below_the_largest_or_zero() -> None:
    x = torch.tensor([1.0, -0.8, 0.7, 0.5, 0.3, -0.2, 0.02, 0.012, 0.011, 0.0])
    decoded = codec("fp4").decode(codec("fp4").encode(x), len(x)).tolist()
    assert decoded == [1.0, -1.0, 0.5, 0.5, 0.25, -0.25, 2.0**-6, 2.0**-6, 0.0, 0.0]


def naive_topk(x: Tensor, keep: int) -> Tensor:
    """The largest of each chunk, ties to the lower index, one by one."""
    kept = torch.zeros_like(x)
    for start in range(0, len(x), CHUNK):
        chunk = x[start : start + CHUNK].tolist()
        count = -(-keep * len(chunk) // CHUNK)
        for i in sorted(range(len(chunk)), key=lambda i: (-abs(chunk[i]), i))[:count]:
            kept[start + i] = chunk[i]
    return kept


@pytest.mark.parametrize("keep", [1, 5, 64, 300, 1500, 4096])
def test_topk_keeps_what_its_naive_twin_keeps(keep: int) -> None:
    sparse = normal(CHUNK, seed=2) * (normal(CHUNK, seed=3) > 2.5)
    rounded = normal(CHUNK, seed=1).mul(4).round()
    x = torch.cat([normal(CHUNK), rounded, torch.zeros(CHUNK), sparse, normal(77)])
    coder = codec("topk", keep=keep, value_bits=16)
    decoded = coder.decode(coder.encode(x), len(x))
    assert torch.equal(decoded, naive_topk(x, keep).bfloat16().float())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_topk_values_of_few_bits_keep_their_signs_and_about_their_sizes(bits: int) -> None:
    x = normal(8 * CHUNK)
    coder, exact = codec("topk", keep=64, value_bits=bits), naive_topk(x, 64)
    decoded = coder.decode(coder.encode(x), len(x))
    assert torch.equal(decoded.sign(), exact.sign())
    assert float((decoded - exact).norm() / exact.norm()) < {2: 0.12, 4: 0.06, 8: 0.005}[bits]


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("keep", [1, 3, 5, 64, 65])
@pytest.mark.parametrize("n", [50, CHUNK, CHUNK + 77, 3 * CHUNK + 2000])
def test_topk_packs_any_number_of_entries_of_any_width(n: int, keep: int, bits: int) -> None:
    x = normal(n)
    coder, exact = codec("topk", keep=keep, value_bits=bits), naive_topk(x, keep)
    payload = coder.encode(x)
    assert memoryview(payload).nbytes == coder.size_bytes(n)
    decoded = coder.decode(payload, n)
    assert torch.equal(decoded.sign(), exact.sign())
    share = {2: 0.5, 4: 0.08, 8: 0.006, 16: 0.004}[bits]
    assert (decoded - exact).abs().le(share * exact.abs().max()).all()


@pytest.mark.parametrize("members", [1, 2, 8, 40])
def test_the_mean_of_topk_parts_loses_no_entry(members: int) -> None:
    n = 2 * CHUNK + 50
    coder, total = codec("topk", keep=64, value_bits=8), torch.zeros(n)
    for member in range(members):
        coder.add(total, coder.encode(normal(n, seed=member)), 1 / members)
    mean_coder = coder.for_mean(members)
    decoded = mean_coder.decode(mean_coder.encode(total), n)
    assert torch.equal(decoded, total.bfloat16().float())
    assert mean_coder.size_bytes(n) <= 2 * n


@pytest.mark.parametrize("keep", [1, 64, 128])
@pytest.mark.parametrize("members", [2, 3, 8])
@pytest.mark.parametrize("n", [1, 100, 130, CHUNK + 100])
def test_the_mean_of_topk_parts_that_kept_different_entries_of_a_short_chunk_has_them_all(
    n: int, members: int, keep: int
) -> None:
    coder, total = codec("topk", keep=keep, value_bits=16), torch.zeros(n)
    of_part = -(-keep * (n % CHUNK) // CHUNK)
    for member in range(members):
        part = torch.zeros(n)
        part[-of_part * (member + 1) :][:of_part] = member + 1.0  # where no other has any
        coder.add(total, coder.encode(part), 1.0)
    assert (total != 0).sum() == min(n % CHUNK, members * of_part)
    mean_coder = coder.for_mean(members)
    assert torch.equal(mean_coder.decode(mean_coder.encode(total), n), total)


@pytest.mark.parametrize("name", [each for each in NAMES if each != "topk"])
def test_other_means_travel_as_contributions_do(name: str) -> None:
    assert codec(name).for_mean(5).name == name


def hostile_topk(indices: list[int]) -> bytes:
    """A payload of one chunk of 4096 that keeps two values of 16 bits at these indices."""
    both = indices[0] | indices[1] << 12
    return both.to_bytes(3, "little") + bytes(4)


@pytest.mark.parametrize("indices", [[5, 5], [9, 3]])
def test_indices_that_do_not_rise_are_refused(indices: list[int]) -> None:
    coder: Codec = codec("topk", keep=2, value_bits=16)
    assert coder.decode(hostile_topk([3, 9]), CHUNK).shape == (CHUNK,)
    with pytest.raises(CodecError, match="rise"):
        coder.decode(hostile_topk(indices), CHUNK)


def test_indices_outside_a_short_chunk_are_refused() -> None:
    coder = codec("topk", keep=4096, value_bits=16)
    with pytest.raises(CodecError, match="outside"):
        coder.decode(hostile_topk([0, 7]), 2)


@pytest.mark.parametrize("name", NAMES)
def test_encoding_twice_gives_the_same_bytes_whatever_came_between(name: str) -> None:
    coder, x = codec(name), normal(SLICE + 3)
    first = bytes(coder.encode(x))
    coder.encode(normal(2 * SLICE, seed=1))
    assert bytes(coder.encode(x)) == first


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "int8", "fp4"])
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


def few_and_many_bits() -> list[Codec]:
    return [codec(name) for name in NAMES if name != "topk"] + [
        codec("topk", value_bits=bits) for bits in (2, 4, 8, 16)
    ]


@pytest.mark.parametrize("coder", few_and_many_bits(), ids=lambda each: each.name)
@pytest.mark.parametrize("value", [6.5e4, 7.9e34, 2e35, 1e37, 5e37, 3.3e38, 3.39e38, 3.4e38])
@pytest.mark.parametrize("n", [3, 2000, CHUNK + 904])
def test_huge_values_are_refused_and_counted_or_come_back(coder: Codec, value: float, n: int) -> None:
    for x in (torch.full((n,), value), torch.full((n,), value) * normal(n).sign()):
        refused, decoded = 0, torch.zeros(0)
        try:
            decoded = coder.decode(coder.encode(x), n)
        except NonFinite as error:
            refused = error.count
        assert decoded.isfinite().all()
        assert refused == n - len(decoded)
        assert not refused or value > LARGEST_SURE or coder.name == "fp16"


@pytest.mark.parametrize("name", ["int8", "int4", "fp4", "int2", "int2_linear", "topk"])
@pytest.mark.parametrize("bits", [2, 8])
def test_blocks_do_not_decode_to_denormal_numbers(name: str, bits: int) -> None:
    coder = codec(name, value_bits=bits)
    for exponent in range(-149, -110):
        decoded = coder.decode(coder.encode(normal(300).mul(2.0**exponent)), 300).abs()
        assert (decoded.eq(0) | decoded.ge(SCALE_MIN)).all()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_no_codec_decodes_or_adds_what_is_not_finite(name: str, bad: float) -> None:
    n = SLICE + 10
    coder = codec(name)
    payload = bytearray(coder.encode(normal(n)))
    if name in ("bf16", "fp16"):
        kind = torch.bfloat16 if name == "bf16" else torch.float16
        payload[-2:] = torch.tensor([bad], dtype=kind).view(torch.uint8).numpy().tobytes()
    elif name == "fp32":
        payload[-4:] = np.array([bad], dtype="<f4").tobytes()
    elif name == "int8":
        payload[:4] = np.array([bad], dtype="<f4").tobytes()
    else:
        payload[:2] = torch.tensor([bad], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    with pytest.raises(NonFinite):
        coder.decode(bytes(payload), n)
    with pytest.raises(NonFinite):
        coder.add(torch.zeros(n), bytes(payload), 0.5)


@pytest.mark.parametrize("scale", [-1.0, SCALE_MAX * 1.01])
def test_int8_refuses_scales_that_encode_never_writes(scale: float) -> None:
    payload = np.array([scale], dtype="<f4").tobytes() + b"\x80"
    with pytest.raises(NonFinite, match="1 block scales"):
        codec("int8").decode(payload, 1)


@pytest.mark.parametrize("name", ["int4", "fp4", "int2_linear", "topk"])
def test_negative_bfloat16_scales_are_refused(name: str) -> None:
    coder = codec(name)
    payload = bytearray(coder.encode(normal(200)))
    payload[1] |= 0x80  # the sign of the first
    with pytest.raises(NonFinite, match="negative"):
        coder.decode(payload, 200)


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
def test_adding_is_adding_the_weighted_decoded_values(name: str) -> None:
    n, weight = 2 * SLICE + 17, 1 / 3
    coder, total = codec(name), normal(n, seed=2)
    payload = bytes(coder.encode(normal(n)))
    decoded = coder.decode(payload, n).numpy()
    expected = total.numpy() + decoded * np.float32(weight)
    coder.add(total, payload, weight)
    if name == "int8":  # the weight goes into its scales
        np.testing.assert_allclose(total.numpy(), expected, rtol=1e-6, atol=1e-6)
    else:
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
@given(st.sampled_from(NAMES), st.integers(0, 5000), st.binary(max_size=2500))
def test_any_bytes_decode_to_finite_values_or_are_refused(name: str, n: int, data: bytes) -> None:
    coder = codec(name)
    data = data[: coder.size_bytes(n)].ljust(coder.size_bytes(n), b"\x7f")
    try:
        decoded = coder.decode(data, n)
    except CodecError:
        return
    assert decoded.shape == (n,)
    assert decoded.isfinite().all()


def test_counting_what_is_not_finite() -> None:
    assert count_non_finite(torch.zeros(0)) == 0
    assert count_non_finite(torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("name", NAMES)
def test_an_accelerator_encodes_to_the_bytes_of_a_cpu(name: str) -> None:
    x = normal(3 * SLICE + 9)
    assert bytes(codec(name).encode(x.cuda())) == bytes(codec(name).encode(x))


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


@pytest.mark.parametrize("coder", few_and_many_bits(), ids=lambda each: each.name)
@pytest.mark.parametrize("num_parts", [1, 2, 64])
def test_any_bytes_of_a_mean_decode_to_finite_values_or_are_refused(coder: Codec, num_parts: int) -> None:
    """Whoever makes up the bytes of a mean must not get what is not finite past a `Done`."""
    rng = np.random.default_rng(num_parts)
    means, n = coder.for_mean(num_parts), 300
    size = means.size_bytes(n)
    largest = np.resize(np.frombuffer(np.float32(3.4e38).tobytes(), np.uint8), size)
    for draw in range(60):
        data = rng.integers(0, 256, size, dtype=np.uint8)
        if draw % 3 == 0:  # numbers as large as they come, with any values behind them
            data = np.where(rng.random(size) < 0.5, data, largest)
        if draw % 3 == 1:
            data[1::2] = 0x7F
        try:
            decoded = means.decode(data.tobytes(), n)
        except CodecError:
            continue
        assert decoded.isfinite().all()
