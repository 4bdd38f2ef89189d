"""Compiled kernels and torch, which is the reference: the same bytes, the same bits, the same refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diloco.compression import kernels
from diloco.compression.codecs import codec
from diloco.compression.error_feedback import EF14
from diloco.compression.kernels.kernel import kernel_of
from diloco.errors import CodecError
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.optimizers import Nesterov
from diloco.outer.tensor_reducer import TensorReducer
from transport.collectives.reducer import Part
from transport.errors import Poisoned

NAMES = [name for name in WIRE_FORMATS if kernel_of(codec(name)) is not None]
SPECIAL = [
    0.0,
    -0.0,
    1e-45,
    -1e-40,
    2.0**-126,
    127 * 2.0**-126,
    7 * 2.0**-126,
    2.0**-120,
    65504.0,
    65520.0,
    2.0**-24,
    2.0**-25,
    3e-8,
    1 + 2.0**-8,
    1 + 3 * 2.0**-8,
    1 + 2.0**-11,
    2.6e36,
    2.7e36,
    1.8e37,
    3.37e38,
    3.4e38,
    math.inf,
    -math.inf,
    math.nan,
]


@pytest.fixture(scope="module", autouse=True)
def built(compiled_kernels: Path) -> Iterator[Path]:
    yield compiled_kernels
    kernels.use("auto")


@contextmanager
def by(choice: str, path: Path) -> Iterator[None]:
    kernels.use(choice, path)
    try:
        yield
    finally:
        kernels.use("auto")


def outcome(run: Callable[[], object]) -> object:
    """What came of it: a refusal by its kind and text."""
    try:
        return run()
    except (CodecError, Poisoned) as error:
        return type(error), str(error), getattr(error, "member", None)


def both(path: Path, run: Callable[[], object]) -> tuple[object, object]:
    found = []
    for choice in ("compiled", "torch"):
        with by(choice, path):
            found.append(outcome(run))
    return found[0], found[1]


@st.composite
def vectors(draw: st.DrawFn, max_size: int = 700) -> Tensor:
    """fp32 of all kinds, of any length: normal at any scale, any bits at all, ties between two codes, and
    some values that are special."""
    n = draw(st.integers(0, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "bits", "ties", "small bits", "zeros"]))
    if kind == "normal":
        x = rng.standard_normal(n, dtype=np.float32) * np.float32(2.0 ** draw(st.integers(-140, 126)))
    elif kind == "bits":
        x = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    elif kind == "small bits":
        x = rng.integers(0, 2**32, n, dtype=np.uint32)
        x = (x & np.uint32(0x83FFFFFF)).view(np.float32)  # denormal and just above
    elif kind == "ties":
        top = draw(st.sampled_from([127, 7, 1]))
        x = (rng.integers(-2 * top, 2 * top + 1, n) / 2).astype(np.float32)
        x[::64] = top
        x *= np.float32(2.0 ** draw(st.integers(-130, 100)))
    else:
        x = np.zeros(n, np.float32)
    for _ in range(draw(st.integers(0, 3)) if n else 0):
        x[draw(st.integers(0, n - 1))] = draw(st.sampled_from(SPECIAL))
    return torch.from_numpy(x)


def payloads(x: Tensor, name: str, seed: int) -> list[bytes]:
    """That of ``x`` if it has one, the same with some bytes changed, and any bytes."""
    coder, rng = codec(name), np.random.default_rng(seed)
    size = coder.size_bytes(len(x))
    found = [rng.integers(0, 256, size, dtype=np.uint8).tobytes()]
    try:
        good = np.frombuffer(bytes(coder.encode(x)), np.uint8).copy()
    except CodecError:
        return found
    found.append(good.tobytes())
    if size:
        good[rng.integers(0, size, 3)] = rng.integers(0, 256, 3)
        found.append(good.tobytes())
    return found


def finite(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def bits(x: Tensor) -> bytes:
    return x.numpy().tobytes()


def test_every_format_of_one_scale_or_none_has_a_kernel() -> None:
    assert NAMES == ["fp32", "fp16", "bf16", "int8", "int4", "fp4"]


@settings(max_examples=300)
@given(x=vectors(), name=st.sampled_from(NAMES))
def test_both_encode_to_the_same_bytes_and_refuse_the_same(built: Path, x: Tensor, name: str) -> None:
    compiled, by_torch = both(built, lambda: bytes(codec(name).encode(x)))
    assert compiled == by_torch


@pytest.mark.parametrize("name", NAMES)
def test_both_encode_alike_at_every_edge_and_beside_it(built: Path, name: str) -> None:
    edges = np.array(SPECIAL, np.float32).view(np.uint32)
    patterns = np.concatenate([edges - 1, edges, edges + 1, [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001]])
    for value in patterns.astype(np.uint32).view(np.float32):
        for others in ([], [-0.5], [0.25, -0.0, 1 / 3]):
            x = torch.tensor([float(each) for each in others]) * torch.tensor(float(value)).nan_to_num(1.0)
            x = torch.cat([torch.from_numpy(np.array([value])), x])
            compiled, by_torch = both(built, lambda x=x: bytes(codec(name).encode(x)))  # type: ignore[misc]
            assert compiled == by_torch, value


@pytest.mark.parametrize("name", NAMES)
def test_both_encode_alike_half_way_between_two_codes_and_just_beside(built: Path, name: str) -> None:
    for top, ties in (
        (127, np.arange(-127, 127) + 0.5),
        (7, np.arange(-7, 7) + 0.5),
        (1, 0.75 * 0.5 ** np.arange(9)),
    ):
        middle = np.concatenate([ties, -ties]).astype(np.float32)
        beside = [np.nextafter(middle, np.float32(to)) for to in (-np.inf, np.inf)]
        for part in np.array_split(np.concatenate([middle, *beside]), len(middle) // 16 + 1):
            x = torch.from_numpy(np.concatenate([[top], part]).astype(np.float32))
            assert len(x) <= 64, "one block of every format"
            compiled, by_torch = both(built, lambda x=x: bytes(codec(name).encode(x)))  # type: ignore[misc]
            assert compiled == by_torch


@settings(max_examples=200)
@given(x=vectors(), name=st.sampled_from(NAMES), seed=st.integers(0, 2**32))
def test_both_decode_any_bytes_to_the_same_bits_and_refuse_the_same(
    built: Path, x: Tensor, name: str, seed: int
) -> None:
    for payload in payloads(x, name, seed):
        compiled, by_torch = both(built, lambda p=payload: bits(codec(name).decode(p, len(x))))  # type: ignore[misc]
        assert compiled == by_torch


@settings(max_examples=200)
@given(
    x=vectors(),
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**32),
    weight=st.floats(2.0**-20, 1.0),
    first=st.booleans(),
)
def test_both_add_to_the_same_bits_and_measure_the_same(
    built: Path, x: Tensor, name: str, seed: int, weight: float, first: bool
) -> None:
    def added(payload: bytes) -> tuple[bytes, float]:
        total = torch.full((len(x),), math.nan) if first else finite(len(x), seed)
        square = codec(name).add(total, payload, weight, first)
        return bits(total), square

    for payload in payloads(x, name, seed):
        compiled, by_torch = both(built, lambda p=payload: added(p))  # type: ignore[misc]
        assert isinstance(compiled, tuple)
        assert isinstance(by_torch, tuple)
        assert compiled[0] == by_torch[0]
        if isinstance(compiled[0], bytes):
            # Squares are sums in another order, and torch's lose what is denormal.
            assert compiled[1] == pytest.approx(by_torch[1], rel=1e-4, abs=1e-35 * len(x))
        else:
            assert compiled == by_torch


@settings(max_examples=100)
@given(
    n=st.integers(0, 9000),
    name=st.sampled_from(NAMES),
    means=st.sampled_from(["same", "fp32", "bf16", "int8"]),
    num_parts=st.integers(1, 5),
    own=st.booleans(),
    as_sent=st.booleans(),
    seed=st.integers(0, 2**32),
    scale=st.integers(-60, 100),
)
def test_both_reduce_to_the_same_bytes_and_blame_the_same_member(
    built: Path,
    n: int,
    name: str,
    means: str,
    num_parts: int,
    own: bool,
    as_sent: bool,
    seed: int,
    scale: int,
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(num_parts))
    contribution = finite(n, seed) * 2.0**scale
    sent: list[bytes | None] = [payloads(finite(n, seed + i), name, seed + i)[1] for i in range(num_parts)]
    if own:
        sent[0] = None
    elif seed % 3 == 0:
        sent[-1] = payloads(contribution, name, seed)[0]  # any bytes
    parts = [Part(i, float(weight), each) for i, (weight, each) in enumerate(zip(weights, sent, strict=True))]

    def reduced() -> tuple[bytes, list[float]]:
        mean_codec = None if means == "same" else codec(means)
        made = TensorReducer(codec(name), n, contribution, mean_codec=mean_codec, as_sent=as_sent)
        made.begin(max(1, n), num_parts)
        payload = made.reduce(0, parts)
        part_squares, square = made.part_squares, made.accept(0, payload)
        return bytes(payload) + bits(made.output), [*part_squares, square]  # type: ignore[arg-type]

    compiled, by_torch = both(built, reduced)
    assert isinstance(compiled, tuple)
    assert isinstance(by_torch, tuple)
    assert compiled[0] == by_torch[0]
    if isinstance(compiled[0], bytes):
        assert compiled[1] == pytest.approx(by_torch[1], rel=1e-4)
    else:
        assert compiled == by_torch


@settings(max_examples=100)
@given(a=vectors(), seed=st.integers(0, 2**32))
def test_both_subtract_to_the_same_bits_and_find_what_is_not_finite(
    built: Path, a: Tensor, seed: int
) -> None:
    b = finite(len(a), seed)
    with by("compiled", built):
        out = b.clone()
        square = kernels.subtract(a, out, out)
    expected = a - b
    assert torch.equal(out.nan_to_num(1.5), expected.nan_to_num(1.5))
    assert square is not None
    assert math.isfinite(square) == bool(expected.isfinite().all())
    if math.isfinite(square):
        assert square == pytest.approx(float(expected.double().square().sum()), rel=1e-5)


@settings(max_examples=200)
@given(delta=vectors(), seed=st.integers(0, 2**32), in_place=st.booleans())
def test_both_take_the_same_steps_of_nesterov_bit_for_bit(
    built: Path, delta: Tensor, seed: int, in_place: bool
) -> None:
    delta = delta.nan_to_num(0.5, 1e30, -1e30)  # of what is not finite the sign is the processor's
    scale = float(delta.abs().max()) if len(delta) else 1.0
    optimizer = Nesterov(lr=0.7, momentum=0.9)

    def stepped() -> bytes:
        theta, buffer = finite(len(delta), seed), finite(len(delta), seed + 1) * min(scale, 1e30)
        out = (theta, buffer) if in_place else (torch.empty_like(theta), torch.empty_like(buffer))
        optimizer.step(theta, [buffer], delta, 0, out[0], [out[1]])
        return bits(torch.cat(out))

    compiled, by_torch = both(built, stepped)
    assert compiled == by_torch


@pytest.mark.parametrize("name", NAMES)
def test_residuals_of_error_feedback_are_the_same_bits_round_after_round(built: Path, name: str) -> None:
    def residuals() -> bytes:
        feedback, coder, local = EF14(), codec(name), [torch.zeros(5000)]
        for step in range(5):
            delta = finite(5000, step) * 10.0**-step
            y = feedback.input(delta, local)
            local = feedback.committed(delta, local, coder.decode(coder.encode(y), len(y)))
        return bits(local[0])

    compiled, by_torch = both(built, residuals)
    assert compiled == by_torch


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_leaves_to_torch_what_it_does_not_take(built: Path, name: str) -> None:
    kernel, coder = kernel_of(codec(name)), codec(name)
    assert kernel is not None
    size, ones = coder.size_bytes(8), (torch.ones(8), torch.ones(8), torch.ones(8))
    with by("compiled", built):
        assert kernel.encode(torch.zeros(8), size) is not None
        assert kernel.encode(torch.zeros(16)[::2], size) is None
        assert kernel.encode(torch.zeros(8, dtype=torch.float64), size) is None
        assert kernel.encode(torch.zeros(2, 4), size) is None
        assert kernel.add(torch.zeros(8), bytes(size), 0.5, first=False) == 0.0
        assert kernel.add(torch.zeros(16)[::2], bytes(size), 0.5, first=False) is None
        assert not kernel.decode(bytes(size), torch.zeros(8, dtype=torch.float16))
        assert kernels.subtract(torch.zeros(8), torch.zeros(7), torch.zeros(8)) is None
        assert kernels.nesterov(*ones, 0.7, 0.9, torch.zeros(8), torch.zeros(16)[::2]) is None
        assert kernels.nesterov(*ones, 0.7, 0.9, *ones[:2]) is not None
    with by("torch", built):
        assert kernel.encode(torch.zeros(8), size) is None
        assert kernels.subtract(torch.zeros(8), torch.zeros(8), torch.zeros(8)) is None
        assert kernels.nesterov(*ones, 0.7, 0.9, *ones[:2]) is None


def test_a_step_of_nesterov_moves_the_slices_that_it_is_told_and_nothing_outside(built: Path) -> None:
    with by("compiled", built):
        theta, buffer, delta = (torch.full((1000,), each) for each in (1.0, 2.0, 4.0))
        out_theta, out_buffer = torch.zeros(1000), torch.zeros(1000)
        step = kernels.nesterov(theta, buffer, delta, 0.5, 0.5, out_theta, out_buffer)
        assert step is not None
        step(slice(300, 600))
        step(slice(900, 1200))  # there are no more
    moved = torch.zeros(1000)
    moved[300:600] = moved[900:] = 1.0
    assert torch.equal(out_buffer, 5.0 * moved)
    assert torch.equal(out_theta, -2.25 * moved)


@pytest.mark.parametrize("name", NAMES)
def test_a_size_that_does_not_fit_never_reaches_memory(built: Path, name: str) -> None:
    kernel, size = kernel_of(codec(name)), codec(name).size_bytes(300)
    assert kernel is not None
    total = torch.zeros(300)
    with by("compiled", built):
        for wrong in (0, size - 1, size + 1):
            with pytest.raises(AssertionError):
                kernel.add(total, bytes(wrong), 1.0, first=False)
            with pytest.raises(AssertionError):
                kernel.encode(total, wrong)


def test_a_mean_of_formats_without_a_kernel_goes_by_torch(built: Path) -> None:
    with by("compiled", built):
        given: list[tuple[bytes | Tensor, float]] = [(torch.ones(8), 1.0)]
        assert kernels.reduce(codec("int8"), codec("int8"), given, torch.zeros(8), shared=False) is not None  # type: ignore[arg-type]
        assert kernels.reduce(codec("int2"), codec("int8"), given, torch.zeros(8), shared=False) is None  # type: ignore[arg-type]
        assert kernels.reduce(codec("int8"), codec("topk"), given, torch.zeros(8), shared=False) is None  # type: ignore[arg-type]
