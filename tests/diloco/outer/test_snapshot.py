"""StateView: bytes as they lie in several places, read as one."""

from __future__ import annotations

import pytest
from blake3 import blake3

from diloco.errors import StateError
from diloco.outer.snapshot import FrozenTail, StateView, require_size
from transport.digests import tree_digest


def test_reads_at_any_offset_join_the_segments() -> None:
    whole = bytes(range(256)) * 3
    view = StateView(0, [memoryview(whole[a:b]) for a, b in ((0, 8), (8, 8), (8, 301), (301, len(whole)))])
    assert view.size_bytes == len(whole)
    for offset in range(0, len(whole) + 8, 7):
        assert bytes(view.read(offset, 50)) == whole[offset : offset + 50]
    pieces = [bytes(piece) for piece in view.pieces(64)]
    assert b"".join(pieces) == whole
    assert view.digest(64) == tree_digest([blake3(piece).digest() for piece in pieces])


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
    require_size(4, 4, 0)
    with pytest.raises(StateError, match="state of fragment 2 has 3 bytes instead of 4: another model"):
        require_size(3, 4, 2)


@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 16, 23])
@pytest.mark.parametrize("after", [0, 1, 5, 8, 40])
def test_what_never_changes_is_hashed_once_and_the_digests_are_those_of_the_whole(
    before: int, after: int
) -> None:
    moving, frozen = memoryview(bytes(range(before))), memoryview(bytes(range(100, 100 + after)))
    view = StateView(1, [moving])
    tail = FrozenTail.of(before, [frozen[: after // 2], frozen[after // 2 :]], piece_bytes=8)
    assert tail.digests_of(view, piece_bytes=8) == view.followed_by([frozen]).digests(piece_bytes=8)
    assert len(tail.head) < 8
