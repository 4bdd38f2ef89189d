"""Who writes which share: the same for all who compute it, spread over members, never less than it should."""

from __future__ import annotations

import pytest
from blake3 import blake3

from peers.protocol.shares import ALL, holders, pack_fragments, share_of, unpack_fragments

HEAD = b"h" * 32
MEMBERS = tuple(bytes([index]) * 32 for index in range(6))


def test_the_members_with_the_least_hashes_write_a_fragment() -> None:
    hashes = {blake3(HEAD + (3).to_bytes(4, "big") + each).digest(): each for each in MEMBERS}
    assert holders(HEAD, 3, MEMBERS, 2) == tuple(hashes[each] for each in sorted(hashes)[:2])
    assert holders(HEAD, 3, MEMBERS[::-1], 2) == holders(HEAD, 3, MEMBERS, 2), "in whatever order"


@pytest.mark.parametrize("copies", [1, 2, 6, 9])
def test_each_fragment_has_as_many_writers_as_copies_or_all_members(copies: int) -> None:
    shares = [share_of(HEAD, each, MEMBERS, copies, 40) for each in MEMBERS]
    assert all(sum(f in share for share in shares) == min(copies, 6) for f in range(40))
    assert share_of(HEAD, b"x" * 32, MEMBERS, copies, 40) == frozenset(), "it is not in the record"


def test_another_commit_is_shared_out_otherwise() -> None:
    drawn = {tuple(holders(bytes([n]) * 32, 0, MEMBERS, 1)) for n in range(60)}
    assert len(drawn) == len(MEMBERS)


@pytest.mark.parametrize("fragments", [(), (0,), (0, 9), (8,), (1, 2, 3)])
def test_a_set_of_fragments_is_packed_and_read_again(fragments: tuple[int, ...]) -> None:
    packed = pack_fragments(fragments, 10)
    assert len(packed) == 2
    assert unpack_fragments(packed, 10) == frozenset(fragments)


def test_all_of_them_are_told_as_nothing_and_what_a_model_does_not_have_is_left_out() -> None:
    assert pack_fragments(range(10), 10) == ALL
    assert unpack_fragments(ALL, 10) == frozenset(range(10))
    assert unpack_fragments(b"\xff" * 32, 3) == frozenset({0, 1, 2})
