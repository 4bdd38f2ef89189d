"""Commit records: what the swarm agreed on, each chained to the one before.

A record's hash names the state that follows from it. One chain, one coordinator (S2): a record is
applied only by a member whose head is its parent. The coordinator journals a record before it says
a word of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from transport.frames import Between, Count, Key, Small, kind, pack_items, to_items

MAX_MEMBERS = 64
Keys = Annotated[tuple[Key, ...], Between(0, MAX_MEMBERS)]
Weights = Annotated[tuple[Annotated[float, Between(0.0, 1e18)], ...], Between(0, MAX_MEMBERS)]

GENESIS = hashlib.sha256(b"diloco genesis").digest()
"""Head of a run whose first state nobody has named yet."""


def genesis_head(states: Sequence[bytes]) -> bytes:
    """The head that a run begins with: named by the digests of its first state by fragment, so that
    the state of a seed that was replaced is never mistaken for the run's."""
    return hashlib.sha256(GENESIS + b"".join(states)).digest()


ALL_FRAGMENTS = (1 << 31) - 1
"""The fragment of a restoring record: it is about the whole model."""


@kind(30)
@dataclass(frozen=True, slots=True)
class Record:
    """One commit. An ordinary record moves one fragment by the weighted mean of its members'
    contributions. A *restoring* record (fragment `ALL_FRAGMENTS`) says that nobody who holds the
    head is left, and that the swarm goes on from the state named by ``result``, an earlier head."""

    parent: Key
    index: Count
    fragment: Small
    epoch: Count
    serial: Count
    chunk_elements: Count
    members: Keys
    weights: Weights
    result: Key
    course: Small = 0
    """The course whose chain this record belongs to; today there is one (`peers.coordinator.course`)."""

    @property
    def restores(self) -> bool:
        return self.fragment == ALL_FRAGMENTS

    def hash(self) -> bytes:
        """SHA-256 over the packed record: the name of the state after it."""
        return hashlib.sha256(b"diloco record\0" + pack_items(to_items(self))).digest()

    def num_chunks(self, num_elements: int) -> int:
        return -(-num_elements // max(1, self.chunk_elements))
