"""Payloads in pieces, and together again."""

from __future__ import annotations

import pytest

from peers.routing.pieces import Assembly, num_pieces, piece_of
from transport.effects import Phantom
from transport.errors import BadFrame


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7])
def test_pieces_in_any_order_make_the_whole(size: int) -> None:
    payload = bytes(range(size))
    pieces = [(i, piece_of(payload, 3, i)) for i in range(num_pieces(size, 3))]
    assembly = Assembly(size, 3)
    found = [assembly.put(index, piece) for index, piece in reversed(pieces)]
    assert found[:-1] == [None] * (len(pieces) - 1)
    assert found[-1] == payload


def test_a_phantom_stays_one() -> None:
    whole = Phantom(7, b"digest")
    assembly = Assembly(7, 4)
    assert assembly.put(0, piece_of(whole, 4, 0)) is None
    assert assembly.put(1, piece_of(whole, 4, 1)) == whole


def test_a_piece_that_comes_twice_counts_once() -> None:
    assembly = Assembly(6, 3)
    assert [assembly.put(0, b"abc"), assembly.put(0, b"abc")] == [None, None]
    assert assembly.put(1, b"def") == b"abcdef"


@pytest.mark.parametrize(("index", "piece"), [(2, b"abc"), (1, b"abcd"), (0, b"ab")])
def test_a_piece_of_another_payload_is_no_message(index: int, piece: bytes) -> None:
    with pytest.raises(BadFrame):
        Assembly(6, 3).put(index, piece)
