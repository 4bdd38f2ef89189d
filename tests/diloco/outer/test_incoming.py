"""A state that comes in pieces: each lies where it stays, and the digests are kept if all came by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diloco.compression.vectors import bytes_of
from diloco.outer.incoming import IncomingState
from transport.effects import Phantom

WHOLE = (5).to_bytes(8, "little") + torch.arange(9.0).numpy().tobytes() + b"frozen!"


@given(piece_bytes=st.integers(1, 60), order=st.randoms())
def test_pieces_in_any_order_make_the_state(piece_bytes: int, order: object) -> None:
    incoming = IncomingState(torch.empty(9), 7, piece_bytes)
    assert len(incoming) == len(WHOLE)
    pieces = [WHOLE[at : at + piece_bytes] for at in range(0, len(WHOLE), piece_bytes)]
    for index in sorted(range(len(pieces)), key=lambda _: order.random()):  # type: ignore[attr-defined]
        assert incoming.digests == []
        incoming.put(index, pieces[index], bytes([index]))
    assert incoming.count == 5
    assert torch.equal(incoming.values, torch.arange(9.0))
    assert bytes(incoming.frozen) == b"frozen!"
    assert incoming.digests == [bytes([index]) for index in range(len(pieces))]


def test_the_memory_is_the_one_that_was_given() -> None:
    values = torch.zeros(9)
    incoming = IncomingState(values, 0)
    incoming.write(8, bytes_of(torch.ones(9)))
    assert torch.equal(values, torch.ones(9))
    assert incoming.values is values
    assert incoming.digests == [], "nobody checked it"


@pytest.mark.parametrize(("offset", "data"), [(0, WHOLE + b"!"), (len(WHOLE), b"!"), (50, b"!!")])
def test_what_has_no_place_is_an_error(offset: int, data: bytes) -> None:
    with pytest.raises(AssertionError, match="beyond the end"):
        IncomingState(torch.empty(9), 7).write(offset, data)


def test_a_phantom_is_no_state() -> None:
    with pytest.raises(AssertionError, match="that of bytes"):
        IncomingState(torch.empty(9), 7).put(0, Phantom(51, b"label"), b"digest")
