"""Checkpoints of which each member writes a share: who writes which fragments, and what is said of that.

Where a run keeps ``copies`` of its state, the coordinator names a commit before it announces it, and the
members of that commit's record share its state out among themselves: all compute the same from the record.
Owns no decision when one is written (`peers.coordinator.sharing`) and no file (`diloco.checkpoints`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from peers.protocol import fields
from peers.protocol.application import StateBlob
from peers.protocol.held import Held
from transport.digests import digest_of
from transport.frames import kind

ALL = b""
"""Of `Saved.fragments`: the whole state."""


def holders(head: bytes, fragment: int, members: Sequence[bytes], copies: int) -> tuple[bytes, ...]:
    """The members that write a fragment of the state at ``head``: those with the least hashes of the three;
    all members where there are no more than ``copies``."""

    def place(member: bytes) -> bytes:
        return digest_of(head + fragment.to_bytes(4, "big") + member)

    return tuple(sorted(members, key=place)[:copies])


def share_of(
    head: bytes, member: bytes, members: Sequence[bytes], copies: int, num_fragments: int
) -> frozenset[int]:
    """The fragments that one member writes: none if it is not among the ``members`` of the record."""
    return frozenset(f for f in range(num_fragments) if member in holders(head, f, members, copies))


def pack_fragments(fragments: Collection[int], num_fragments: int) -> bytes:
    """As one bit each; all of them as `ALL`."""
    if len(fragments) == num_fragments:
        return ALL
    bits = sum(1 << fragment for fragment in fragments)
    return bits.to_bytes(-(-num_fragments // 8), "big")


def unpack_fragments(packed: bytes, num_fragments: int) -> frozenset[int]:
    """What `pack_fragments` was given; bits of fragments that a model does not have are left out."""
    bits = int.from_bytes(packed, "big")
    return frozenset(f for f in range(num_fragments) if packed == ALL or bits >> f & 1)


@dataclass(frozen=True, slots=True)
class Part:
    """The share of a state that one disk has."""

    held: Held
    """Of which state: versions and digests are those of all fragments."""
    fragments: frozenset[int]
    """Those on the disk."""


class Stored(Protocol):
    """Shares of states on this machine's disk; for the network's thread."""

    def parts(self) -> Sequence[Part]:
        """All that there are, the newest first."""

    def find(self, fragment: int, blob: bytes) -> StateBlob | None:
        """The state of a fragment with that digest. A piece that cannot be read any more is empty."""


@kind(142)
@dataclass(frozen=True, slots=True)
class SaveShare:
    """Write your share of the state behind the record of that index, which I am about to announce."""

    index: fields.RecordIndex
    copies: fields.RecordIndex
    """So many members write each fragment."""
    covered: fields.RecordIndex
    """Index of the newest state of which all fragments are on disks; 0 if there is none. Newer shares of
    other states are given up."""


@kind(143)
@dataclass(frozen=True, slots=True)
class PartHeld:
    """Of a state of which my disk has a share: one fragment, also one that my disk lacks (``here``)."""

    index: fields.RecordIndex
    head: fields.Head
    fragment: fields.Fragment
    version: fields.Head
    state: fields.Digest
    here: bool
