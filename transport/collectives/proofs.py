"""Signed indexes: what a member vouches for before it sends, and how one chunk is shown to belong to it.

The index of a vector is a Merkle tree over the digests of its encoded chunks. Its author signs a *statement*
about the root once, and each chunk carries the signature and its path to the root, so that whoever holds a
chunk can show whom it is from. Two roots under one statement are equivocation. Keys are handed in as a
`Notary`; nothing here knows who a member is. Pure. Keeps X10.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from transport.digests import digest_of
from transport.effects import Payload
from transport.errors import BadFrame
from transport.frames import Between, Key, pack_items

MAX_PATH = 32
Path = Annotated[tuple[Key, ...], Between(0, MAX_PATH)]
"""The digests beside the way from a chunk to its root, the lowest first."""
Signature = Annotated[bytes, Between(64, 64)]


class Notary(Protocol):
    """Signs for one member, and checks what others signed."""

    def sign(self, statement: bytes) -> bytes:
        """64 bytes."""
        ...

    def verify(self, author: bytes, statement: bytes, signature: bytes) -> bool:
        """Whether the member ``author`` signed that."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What statements of one round are about."""

    run: bytes
    serial: int
    base: bytes
    fragment: int
    num_elements: int

    def statement(
        self, root: bytes, founders: Sequence[bytes], attempt: int = -1, lost: Iterable[bytes] = ()
    ) -> bytes:
        """What an author signs. A contribution is the same in each attempt, so it is said once per round: for
        it there is neither ``attempt`` nor ``lost``."""
        parties = hashlib.sha256(b"".join([*founders, b"lost", *sorted(lost)])).digest()
        role = "mean" if attempt >= 0 else "part"
        about = [self.run, role, self.serial, self.base, self.fragment, self.num_elements]
        return pack_items([*about, parties, max(0, attempt), root])


class Index:
    """The tree over some chunks: leaf i is the i-th of them."""

    def __init__(self, digests: Sequence[bytes]) -> None:
        self._levels = [list(digests)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = [_node(*below[i : i + 2]) for i in range(0, len(below) - 1, 2)]
            self._levels.append(pairs + below[len(below) & ~1 :])

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def path(self, leaf: int) -> tuple[bytes, ...]:
        """What `root_of` needs beside the chunk."""
        path = []
        for level in self._levels[:-1]:
            if leaf ^ 1 < len(level):
                path.append(level[leaf ^ 1])
            leaf //= 2
        return tuple(path)


def root_of(payload: Payload, leaf: int, num_leaves: int, path: Sequence[bytes]) -> bytes:
    """The root of the index that a chunk is in. Raises `BadFrame` for a path of another length."""
    found, left = digest_of(payload), list(path)
    while num_leaves > 1:
        if leaf ^ 1 < num_leaves:
            if not left:
                raise BadFrame("a path that is too short")
            beside = left.pop(0)
            found = _node(beside, found) if leaf & 1 else _node(found, beside)
        leaf, num_leaves = leaf // 2, (num_leaves + 1) // 2
    if left:
        raise BadFrame("a path that is too long")
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01node" + left + right).digest()
