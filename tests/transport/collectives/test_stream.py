"""A tensor in pieces: whole from any order, again from what is missing, and never of another size."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from transport.collectives.stream import Incoming, Outgoing, most_have_bytes, num_pieces
from transport.effects import Payload, Phantom
from transport.errors import BadFrame


def pieces(outgoing: Outgoing) -> list[tuple[int, Payload]]:
    found = []
    while not outgoing.all_left:
        size = outgoing.next_bytes
        found.append(outgoing.pop())
        assert len(found[-1][1]) == size
    return found


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 11, 12])
def test_a_tensor_is_whole_from_its_pieces_in_any_order(size: int) -> None:
    tensor = bytes(range(size))
    for order in permutations(pieces(Outgoing(tensor, 4))):
        incoming = Incoming(size, 4)
        for number, (index, piece) in enumerate(order):
            assert not incoming.is_whole
            assert incoming.num_missing == len(order) - number
            assert incoming.take(index, piece)
        assert incoming.is_whole
        assert bytes(incoming.payload) == tensor  # type: ignore[arg-type]


def test_a_tensor_of_one_piece_is_not_copied() -> None:
    tensor, incoming = bytearray(b"abc"), Incoming(3, 4)
    ((index, piece),) = pieces(Outgoing(tensor, 4))
    incoming.take(index, piece)
    assert incoming.payload is piece


def test_what_is_lost_is_sent_again_and_what_comes_twice_is_dropped() -> None:
    """Over links that begin anew again and again, at any moment."""
    for seed in range(50):
        draws = Random(seed)
        tensor = draws.randbytes(draws.randrange(200))
        outgoing, incoming, taken = Outgoing(tensor, 7), Incoming(len(tensor), 7), 0
        while not incoming.is_whole:
            says_nothing = draws.random() < 0.3
            outgoing.begin_anew(b"" if says_nothing else incoming.have())
            for index, piece in pieces(outgoing)[: draws.randrange(20)]:
                taken += incoming.take(index, piece)
        assert taken == num_pieces(len(tensor), 7)
        assert bytes(incoming.payload) == tensor  # type: ignore[arg-type]


def test_only_what_is_missing_is_sent_again() -> None:
    tensor = bytes(40)
    outgoing, incoming = Outgoing(tensor, 4), Incoming(40, 4)
    for index, piece in pieces(outgoing):
        if index % 3:
            incoming.take(index, piece)
    assert len(incoming.have()) == most_have_bytes(40, 4) == 2
    outgoing.begin_anew(incoming.have())
    assert [index for index, _ in pieces(outgoing)] == [0, 3, 6, 9]


def test_a_phantom_stays_one() -> None:
    incoming = Incoming(10, 4)
    for index, piece in pieces(Outgoing(Phantom(10, b"d"), 4)):
        assert isinstance(piece, Phantom)
        incoming.take(index, piece)
    assert incoming.payload == Phantom(10, b"d")


@pytest.mark.parametrize(("index", "size"), [(3, 4), (1 << 31, 4), (0, 3), (0, 5), (2, 4), (2, 0)])
def test_a_piece_that_the_tensor_does_not_have_is_rubbish_and_changes_nothing(index: int, size: int) -> None:
    incoming = Incoming(10, 4)
    with pytest.raises(BadFrame):
        incoming.take(index, bytes(size))
    assert incoming.have() == bytes(1)


@pytest.mark.parametrize("have", [b"\x00\x00", b"\x08", b"\xff"])
def test_nobody_has_pieces_that_a_tensor_does_not_have(have: bytes) -> None:
    with pytest.raises(BadFrame):
        Outgoing(bytes(10), 4).begin_anew(have)
