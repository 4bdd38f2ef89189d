"""Keys of a lane: both ends have the same two, and whatever is not the same gives others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.transport.sealed.lane_kit import HIGHER, LOWER, drawn, keys_of, lane_ends, turned
from transport.sealed.keys import LaneEnds, agree, next_key


def test_what_one_end_seals_with_the_other_opens_with() -> None:
    for ends in (lane_ends(), lane_ends(HIGHER, LOWER)):
        here, there = keys_of(ends), keys_of(turned(ends))
        assert (here.sending, here.receiving) == (there.receiving, there.sending)
        assert here.sending != here.receiving


def test_whatever_tells_two_connections_apart_gives_them_other_keys() -> None:
    secrets = [next(each) for each in (drawn("id"), drawn("asked"), drawn("offered"))]
    connection, asked, offered = secrets[0][:16], secrets[1], secrets[2]
    ends = lane_ends()
    variants: list[tuple[LaneEnds, bytes, bytes, bytes]] = [(ends, connection, asked, offered)]
    changes = {"run": b"b run", "ours": b"\x02" * 32, "theirs": b"\xfd" * 32, "session": (1, 1)}
    for name, value in {**changes, "peer_session": (3, 0), "lane": 2}.items():
        variants.append((replace(ends, **{name: value}), connection, asked, offered))  # type: ignore[arg-type]
    variants.append((ends, connection[:-1] + b"?", asked, offered))
    variants.append((ends, connection, asked[:-1] + b"?", offered))
    variants.append((ends, connection, asked, offered[:-1] + b"?"))
    variants.append((ends, connection, offered, asked))
    both = [agree(*each) for each in variants]
    assert len({key for keys in both for key in (keys.sending, keys.receiving)}) == 2 * len(variants)


def test_a_boundary_between_two_parts_cannot_be_moved() -> None:
    """Run ``ab`` with a key that begins with ``c`` is not run ``abc``."""
    one = replace(lane_ends(), run=b"ab", ours=b"c" + b"\x01" * 31)
    other = replace(lane_ends(), run=b"abc", ours=b"\x01" * 31)
    assert keys_of(one).sending != keys_of(other).sending


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        agree(lane_ends(), b"i" * 16, b"s" * 31, b"s" * 32)
    with pytest.raises(ValueError, match="16"):
        agree(lane_ends(), b"i" * 15, b"s" * 32, b"s" * 32)


def test_the_next_key_is_another_one_each_time() -> None:
    keys = [b"k" * 32]
    for _ in range(5):
        keys.append(next_key(keys[-1]))
    assert len(set(keys)) == 6
    assert {len(key) for key in keys} == {32}
