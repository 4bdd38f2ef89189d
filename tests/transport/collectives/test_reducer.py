"""Reducers: sizes, weighted means in a fixed order, and whose fault it is when values cannot be added."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from transport.collectives.reducer import NumpyReducer, Part, PhantomReducer
from transport.digests import digest_of, tree_digest
from transport.effects import Phantom
from transport.errors import Poisoned


def plain(values: list[float], chunk_elements: int) -> NumpyReducer:
    reducer = NumpyReducer(len(values), np.array(values, dtype=np.float32))
    reducer.begin(chunk_elements, 2)
    return reducer


def floats(*values: float) -> bytes:
    return np.array(values, dtype=np.float32).tobytes()


@given(size=st.integers(0, 50), chunk=st.integers(1, 20))
def test_chunks_cover_the_vector_once(size: int, chunk: int) -> None:
    sender, receiver = plain([float(i) for i in range(size)], chunk), NumpyReducer(size)
    receiver.begin(chunk, 2)
    chunks = range(-(-size // chunk))
    for i in chunks:
        receiver.accept(i, sender.encode(i))
    assert receiver.output.tolist() == list(range(size))
    assert sum(sender.size_bytes(i) for i in chunks) == 4 * size
    assert all(sender.size_bytes(i) == len(sender.encode(i)) for i in chunks)


def test_a_mean_is_weighted_and_the_owners_own_part_is_taken_as_it_is() -> None:
    owner = plain([1.0, 2.0, 3.0], 2)
    parts = [Part(0, 0.25, floats(5.0, 6.0)), Part(1, 0.75, None)]
    assert bytes(owner.reduce(0, parts)) == floats(2.0, 3.0)  # type: ignore[arg-type]


def test_parts_are_added_in_the_order_given() -> None:
    owner = plain([1e8], 1)
    small = [Part(i, 1.0, floats(1.0)) for i in range(1, 9)]
    own = Part(0, 1.0, None)
    first, last = owner.reduce(0, [own, *small]), owner.reduce(0, [*small, own])
    assert bytes(first) == floats(1e8)  # type: ignore[arg-type]
    assert bytes(last) == floats(1e8 + 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "payload", [floats(1.0, float("nan")), floats(float("inf"), 0.0), Phantom(8), b"123", floats(1.0)]
)
def test_what_cannot_be_added_names_its_sender_and_what_cannot_be_taken_nobody(
    payload: bytes | Phantom,
) -> None:
    owner = plain([1.0, 2.0], 2)
    with pytest.raises(Poisoned) as caught:
        owner.reduce(0, [Part(0, 0.5, None), Part(3, 0.5, payload)])
    assert caught.value.member == 3
    with pytest.raises(Poisoned) as caught:
        owner.accept(0, payload)
    assert caught.value.member == -1
    assert owner.output.tolist() == [0.0, 0.0]


def test_an_owner_whose_own_part_is_not_finite_names_itself() -> None:
    with pytest.raises(Poisoned) as caught:
        plain([float("nan")], 1).reduce(0, [Part(2, 1.0, None)])
    assert caught.value.member == 2


def test_finite_parts_whose_mean_overflows_blame_the_largest() -> None:
    huge = float(np.finfo(np.float32).max)
    parts = [Part(0, 0.5, None), Part(1, 1.0, floats(huge / 2)), Part(4, 1.0, floats(-huge))]
    with pytest.raises(Poisoned, match="overflows") as caught:
        plain([1.0], 1).reduce(0, [*parts, Part(5, 1.0, floats(-huge * 0.9))])
    assert caught.value.member == 4


def test_phantoms_have_the_size_of_their_codec_and_the_digest_of_what_went_in() -> None:
    def reduced(label: bytes, weight: float) -> Phantom:
        owner = PhantomReducer(10**11, 0.5, label)
        owner.begin(7, 2)
        assert owner.size_bytes(0) == 4
        mean = owner.reduce(0, [Part(0, weight, None), Part(1, 1 - weight, Phantom(4, b"other"))])
        assert isinstance(mean, Phantom)
        assert len(mean) == 4
        return mean

    assert reduced(b"a", 0.5) == reduced(b"a", 0.5)
    assert len({reduced(b"a", 0.5), reduced(b"b", 0.5), reduced(b"a", 0.25)}) == 3


def test_names_of_pieces_are_sha_256_and_a_tree_is_named_by_them_in_order() -> None:
    one, two = digest_of(b"one"), digest_of(memoryview(b"two"))
    assert one == blake3(b"one").digest()
    assert tree_digest([one, two]) == blake3(one + two).digest() != tree_digest([two, one])
    assert digest_of(Phantom(3, b"x")) == digest_of(Phantom(9, b"x")) != digest_of(Phantom(3, b"y"))


def test_a_phantom_mean_of_another_size_or_of_bytes_is_refused() -> None:
    receiver = PhantomReducer(7, 0.5, b"a")
    receiver.begin(7, 2)
    receiver.accept(0, Phantom(4, b"mean"))
    for bad in (Phantom(5, b"mean"), bytes(4)):
        with pytest.raises(Poisoned):
            receiver.accept(0, bad)
