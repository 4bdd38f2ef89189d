"""A tensor in pieces: whole from any order, each piece once, and never of another size."""

from __future__ import annotations

from itertools import permutations

import pytest

from transport.collectives.stream import Assembly, num_pieces, piece_of
from transport.effects import Payload, Phantom
from transport.errors import BadFrame


def pieces(payload: Payload, piece_bytes: int) -> list[tuple[int, Payload]]:
    return [(i, piece_of(payload, piece_bytes, i)) for i in range(num_pieces(len(payload), piece_bytes))]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 11, 12])
def test_pieces_in_any_order_make_the_whole(size: int, kind: type) -> None:
    tensor = kind(bytes(range(size)))
    for order in permutations(pieces(tensor, 4)):
        assembly = Assembly(size, 4)
        *before, last = [assembly.put(index, piece) for index, piece in order]
        assert before == [None] * (len(order) - 1)
        assert last is not None
        assert bytes(last) == bytes(tensor)  # type: ignore[arg-type]


def test_a_tensor_of_one_piece_is_not_copied() -> None:
    tensor = bytearray(b"abc")
    assert piece_of(tensor, 4, 0) is tensor
    assert Assembly(3, 4).put(0, tensor) is tensor


def test_a_phantom_stays_one() -> None:
    for size in (3, 10):
        whole, assembly = Phantom(size, b"d"), Assembly(size, 4)
        assert [assembly.put(*each) for each in pieces(whole, 4)][-1] == whole


def test_a_piece_that_comes_twice_counts_once() -> None:
    assembly = Assembly(6, 3)
    assert [assembly.put(0, b"abc"), assembly.put(0, b"abc")] == [None, None]
    assert assembly.put(1, b"def") == b"abcdef"
    assert assembly.put(1, b"def") is None


@pytest.mark.parametrize(("index", "size"), [(3, 4), (1 << 31, 4), (0, 3), (0, 5), (2, 4), (2, 0)])
def test_a_piece_that_the_tensor_does_not_have_is_rubbish_and_changes_nothing(index: int, size: int) -> None:
    assembly = Assembly(10, 4)
    with pytest.raises(BadFrame):
        assembly.put(index, bytes(size))
    assert [assembly.put(*each) for each in pieces(bytes(10), 4)][-1] == bytes(10)
