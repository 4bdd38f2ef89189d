"""TensorReducer: the weighted mean of a round, and who is blamed for what cannot be added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from diloco.compression.codecs import codec
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.tensor_reducer import TensorReducer
from transport.collectives.reducer import NumpyReducer, Part, Reducer
from transport.effects import Phantom
from transport.errors import Poisoned

pytestmark = pytest.mark.usefixtures("both_ways")
NAMES = sorted(WIRE_FORMATS)
N, CHUNK = 1000, 300
NUM_CHUNKS = 4


def values(member: int, n: int = N) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(member))


def make(name: str, contribution: Tensor | None) -> TensorReducer:
    made = TensorReducer(codec(name), N, contribution)
    made.begin(CHUNK, 3)
    return made


ERRORS = {"fp32": 1e-7, "fp16": 1e-3, "bf16": 5e-3, "int8": 0.02, "int4": 0.2, "fp4": 0.35, "int2": 0.7}
"""Relative error of a mean of normal vectors; the other codecs are not meant for means of so few."""


def parts_for(
    owner: int, everyone: Sequence[TensorReducer], chunk: int, weights: Sequence[float]
) -> list[Part]:
    return [
        Part(i, weights[i], None if i == owner else bytes(each.encode(chunk)))  # type: ignore[arg-type]
        for i, each in enumerate(everyone)
    ]


def exchange(everyone: Sequence[TensorReducer], weights: Sequence[float]) -> None:
    """Chunk i is owned by member i modulo their number; everyone accepts each result."""
    for chunk in range(NUM_CHUNKS):
        owner = chunk % len(everyone)
        result = everyone[owner].reduce(chunk, parts_for(owner, everyone, chunk, weights))
        assert len(result) == everyone[owner].mean_size_bytes(chunk)
        for each in everyone:
            each.accept(chunk, result)


@pytest.mark.parametrize("name", NAMES)
def test_everyone_ends_with_the_same_bits_near_the_weighted_mean(name: str) -> None:
    weights = [0.5, 0.25, 0.25]
    everyone = [make(name, values(i)) for i in range(3)]
    exchange(everyone, weights)
    mean = sum(values(i) * w for i, w in enumerate(weights))
    assert all(torch.equal(each.output, everyone[0].output) for each in everyone)
    if name in ERRORS:
        assert float((everyone[0].output - mean).norm() / mean.norm()) <= ERRORS[name]


def test_a_mean_of_topk_parts_holds_every_entry_of_every_part() -> None:
    everyone = [make("topk", values(i)) for i in range(3)]
    exchange(everyone, [0.5, 0.25, 0.25])
    kept = sum(
        int((codec("topk").decode(codec("topk").encode(values(i)[:CHUNK]), CHUNK) != 0).sum()) for i in (1, 2)
    )
    assert int((everyone[0].output[:CHUNK] != 0).sum()) >= kept - 2


@pytest.mark.parametrize("name", ["int4", "topk"])
def test_as_sent_the_owners_part_enters_its_sums_as_it_would_travel(name: str) -> None:
    coder = codec(name)
    made = TensorReducer(coder, N, values(0), mean_codec=codec("fp32"), as_sent=True)
    made.begin(N, 1)
    made.accept(0, made.reduce(0, [Part(0, 1.0, None)]))
    assert torch.equal(made.output, codec(name).decode(codec(name).encode(values(0)), N))


def test_means_may_travel_in_a_codec_of_their_own() -> None:
    made = TensorReducer(codec("int2"), N, values(0), mean_codec=codec("int8"))
    made.begin(CHUNK, 3)
    assert made.size_bytes(0) == codec("int2").size_bytes(CHUNK)
    assert made.mean_size_bytes(0) == codec("int8").size_bytes(CHUNK)


def test_fp32_gives_the_bits_of_the_plain_payloads() -> None:
    tensors = make("fp32", values(0))
    plain = NumpyReducer(N, values(0).numpy())
    plain.begin(CHUNK, 2)
    parts = [Part(0, 1 / 3, None), Part(1, 2 / 3, values(1)[:CHUNK].numpy().tobytes())]
    assert bytes(tensors.reduce(0, parts)) == bytes(plain.reduce(0, parts))  # type: ignore[arg-type]


def test_tensor_payloads_offer_all_that_the_exchange_wants() -> None:
    wanted: Reducer = TensorReducer(codec("int8"), N)
    assert wanted.num_elements == N


def test_sizes_cover_the_vector_and_the_last_chunk_is_short() -> None:
    made = make("fp32", None)
    assert [made.size_bytes(i) for i in range(NUM_CHUNKS)] == [1200, 1200, 1200, 400]


def test_the_owners_own_part_is_taken_unencoded() -> None:
    owner = make("int8", values(0))
    alone = owner.reduce(0, [Part(0, 1.0, None)])
    assert bytes(alone) == bytes(codec("int8").encode(values(0)[:CHUNK]))  # type: ignore[arg-type]


def test_a_result_is_not_changed_by_the_next_reduce() -> None:
    for name in NAMES:
        owner = make(name, values(0))
        first = owner.reduce(0, [Part(0, 1.0, None)])
        kept = bytes(first)  # type: ignore[arg-type]
        owner.reduce(1, [Part(0, 1.0, None)])
        assert bytes(first) == kept  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_kept_as_it_travelled_and_of_fp32_in_the_output_alone(name: str) -> None:
    owner, other = make(name, values(0)), make(name, values(1))
    mean = bytes(owner.reduce(0, [Part(0, 1.0, None)]))  # type: ignore[arg-type]
    other.accept(0, mean)
    kept = other.kept(0, mean)
    assert bytes(kept) == mean  # type: ignore[arg-type]
    in_output = not isinstance(kept, bytes) and np.shares_memory(np.asarray(kept), other.output.numpy())
    assert in_output == (name == "fp32")


@pytest.mark.parametrize("name", NAMES)
def test_another_mean_than_the_one_made_here_is_decoded(name: str) -> None:
    owner, other = make(name, values(0)), make(name, values(1))
    mean = bytes(other.reduce(0, [Part(0, 1.0, None)]))  # type: ignore[arg-type]
    owner.reduce(0, [Part(0, 1.0, None)])
    assert owner.accept(0, mean) == other.accept(0, mean)
    assert torch.equal(owner.output[:CHUNK], other.output[:CHUNK])


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_wrong_size_poisons_with_its_member(name: str) -> None:
    with pytest.raises(Poisoned) as caught:
        make(name, values(0)).reduce(0, [Part(0, 0.5, None), Part(7, 0.5, b"123")])
    assert caught.value.member == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_phantom_and_bytes_that_are_not_finite_poison_with_their_member(name: str) -> None:
    made = make(name, values(0))
    for kind in (Phantom, lambda size: b"\xff" * size):
        with pytest.raises(Poisoned) as caught:
            made.reduce(0, [Part(3, 0.5, kind(made.size_bytes(0)))])
        assert caught.value.member == 3
        with pytest.raises(Poisoned) as caught:
            made.accept(0, kind(made.mean_size_bytes(0)))
        assert caught.value.member == -1


def test_the_owners_own_part_poisons_if_it_is_not_finite() -> None:
    own = values(0)
    own[5] = float("nan")
    with pytest.raises(Poisoned, match="1 values") as caught:
        make("int8", own).reduce(0, [Part(2, 1.0, None)])
    assert caught.value.member == 2


def test_finite_parts_whose_mean_overflows_blame_the_largest() -> None:
    huge = torch.full((CHUNK,), torch.finfo(torch.float32).max)
    parts = [Part(0, 0.5, None), Part(4, 1.5, huge.numpy().tobytes())]
    with pytest.raises(Poisoned, match="overflows") as caught:
        make("fp32", values(0)).reduce(0, parts)
    assert caught.value.member == 4


def test_a_new_round_may_have_other_chunks() -> None:
    made = make("int8", values(0))
    made.reduce(0, [Part(0, 1.0, None)])
    made.begin(N, 2)
    made.accept(0, made.reduce(0, [Part(0, 1.0, None)]))
    assert np.allclose(made.output.numpy(), values(0).numpy(), atol=0.05)


def test_a_contribution_of_another_length_is_our_bug() -> None:
    with pytest.raises(ValueError, match="shape"):
        TensorReducer(codec("fp32"), N, torch.zeros(N - 1))


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_a_mean_that_has_not_left_yet_is_what_it_was_after_the_next_attempt_began(name: str) -> None:
    reducer = TensorReducer(codec(name), N, torch.ones(N), torch.zeros(N))
    others = [codec(name).encode(torch.full((N,), value)) for value in (2.0, 3.0)]
    reducer.begin(N, 3)
    three = [Part(i, 1 / 3, each) for i, each in enumerate((None, *others))]
    mean, before = reducer.reduce(0, three), reducer.output
    assert isinstance(mean, (bytes, bytearray, memoryview))
    said = bytes(mean)
    reducer.begin(N, 2)
    reducer.accept(0, reducer.reduce(0, [Part(i, 1 / 2, each) for i, each in enumerate((None, others[0]))]))
    assert bytes(mean) == said
    assert reducer.output[0].item() == pytest.approx(1.5, rel=0.02)
    assert (reducer.output is before) == (name != "fp32"), "no memory is taken where none is shared"


def test_an_attempt_in_which_nothing_was_made_takes_no_memory() -> None:
    reducer = TensorReducer(codec("fp32"), N, torch.ones(N), torch.zeros(N))
    output = reducer.output
    for num_parts in (3, 2):
        reducer.begin(N, num_parts)
    assert reducer.output is output
