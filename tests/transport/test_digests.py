"""Digests: of bytes, of phantoms, and of many pieces under one name."""

from __future__ import annotations

from blake3 import blake3

from transport.digests import digest_of, hasher, tree_digest
from transport.effects import Phantom


def test_a_digest_is_the_blake3_of_the_bytes_whatever_holds_them() -> None:
    wanted = blake3(b"abc").digest()
    assert [digest_of(each) for each in (b"abc", bytearray(b"abc"), memoryview(b"abc"))] == [wanted] * 3


def test_the_digest_of_a_phantom_is_that_of_what_it_stands_for_and_not_of_its_size() -> None:
    assert digest_of(Phantom(5, b"one")) == digest_of(Phantom(9, b"one"))
    assert digest_of(Phantom(5, b"one")) != digest_of(Phantom(5, b"two"))
    assert len(digest_of(Phantom(5, b"one"))) == 32


def test_one_name_for_many_pieces_depends_on_each_and_on_their_order() -> None:
    first, second = digest_of(b"first"), digest_of(b"second")
    assert tree_digest([first, second]) == blake3(first + second).digest()
    assert len({tree_digest(each) for each in ([], [first], [first, second], [second, first])}) == 4


def test_a_hasher_gives_the_digest_of_bytes_that_come_in_pieces() -> None:
    whole = hasher()
    for piece in (b"a", memoryview(b"bc"), b""):
        whole.update(piece)
    assert whole.digest() == digest_of(b"abc")
