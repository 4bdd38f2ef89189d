"""Signed indexes: what a member vouches for before it sends, and how one chunk is shown to belong to it.

The index of a group of chunks is a Merkle tree over the digests of their encoded bytes. Its author signs a
*statement* about the root once, and each chunk carries the signature and its path to the root, so that
whoever holds a chunk can show whom it is from. Two roots under one statement are equivocation. Groups are
small, so that the first chunks leave while later ones are not encoded, or reduced, yet. Keys are handed in as
a `Notary`; nothing here knows who a member is. Pure. Keeps X10.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

from transport.errors import BadFrame
from transport.frames import Between, Key, pack_items

GROUP = 4
"""Chunks under one root: of a contribution in its order, of means in the order of their owner's."""
MAX_PATH = 2
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


class Place(NamedTuple):
    """Where a chunk stands."""

    group: int
    leaf: int
    num_leaves: int


def place_of(position: int, count: int) -> Place:
    """The place of one of ``count`` chunks."""
    group, leaf = divmod(position, GROUP)
    return Place(group, leaf, min(GROUP, count - group * GROUP))


def num_groups(count: int) -> int:
    """Groups of so many chunks."""
    return -(-count // GROUP)


@dataclass(frozen=True, slots=True)
class Terms:
    """What statements of one round are about."""

    run: bytes
    serial: int
    base: bytes
    fragment: int
    num_elements: int
    life: bytes = bytes(16)
    """Of the process that opened the round: a host that begins again from an old copy gives serials again."""

    def statement(
        self,
        root: bytes,
        group: int,
        founders: Sequence[bytes],
        attempt: int = -1,
        lost: Iterable[bytes] = (),
    ) -> bytes:
        """What an author signs about one group. A contribution is the same in each attempt, so it is said
        once per round: for it there is neither ``attempt`` nor ``lost``."""
        parties = hashlib.sha256(b"".join([*founders, b"lost", *sorted(lost)])).digest()
        role = "mean" if attempt >= 0 else "part"
        about = [self.run, self.life, role, self.serial, self.base, self.fragment, self.num_elements]
        return pack_items([*about, parties, max(0, attempt), group, root])


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


def root_of(digest: bytes, place: Place, path: Sequence[bytes]) -> bytes:
    """The root of the index that a chunk is in. Raises `BadFrame` for a path of another length."""
    found, left = digest, list(path)
    leaf, num_leaves = place.leaf, place.num_leaves
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
