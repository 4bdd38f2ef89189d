"""StateView: bytes as they lie in several places, read as one."""

from __future__ import annotations

import hashlib

import pytest

from diloco.errors import StateError
from diloco.outer.snapshot import StateView, require_size
from transport.digests import tree_digest


def test_reads_at_any_offset_join_the_segments() -> None:
    whole = bytes(range(256)) * 3
    view = StateView(0, [memoryview(whole[a:b]) for a, b in ((0, 8), (8, 8), (8, 301), (301, len(whole)))])
    assert view.size_bytes == len(whole)
    for offset in range(0, len(whole) + 8, 7):
        assert bytes(view.read(offset, 50)) == whole[offset : offset + 50]
    pieces = [bytes(piece) for piece in view.pieces(64)]
    assert b"".join(pieces) == whole
    assert view.digest(64) == tree_digest([hashlib.sha256(piece).digest() for piece in pieces])


def test_a_read_within_one_segment_copies_nothing() -> None:
    memory = bytearray(b"abcdef")
    part = StateView(0, [memoryview(memory)]).read(1, 3)
    memory[2] = ord("X")
    assert bytes(part) == b"bXd"


def test_a_view_followed_by_more_bytes_is_another_view_of_the_same_version() -> None:
    view = StateView(7, [memoryview(b"outer")])
    longer = view.followed_by([memoryview(b""), memoryview(b"frozen")])
    assert (longer.version, bytes(longer.read(0, 99))) == (7, b"outerfrozen")
    assert bytes(view.read(0, 99)) == b"outer"


def test_bytes_of_another_size_are_refused_with_both_sizes() -> None:
    require_size(memoryview(b"1234"), 4, 0)
    with pytest.raises(StateError, match="state of fragment 2 has 3 bytes instead of 4: another model"):
        require_size(memoryview(b"123"), 4, 2)
