"""Commit records: what the swarm agreed on, each chained to the one before.

A record's hash names the state that follows from it. One chain, one coordinator (S2): a record is
applied only by a member whose head is its parent. The coordinator journals a record before it says
a word of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from peers.protocol import fields
from peers.protocol.fields import ALL_FRAGMENTS, MAX_FRAGMENTS
from transport.errors import BadFrame
from transport.frames import kind, pack_items, to_items, unpack

GENESIS = hashlib.sha256(b"diloco genesis").digest()
"""Head of a run whose first state nobody has named yet."""

NO_DIGEST = bytes(32)

TERM_BITS = 32
"""Serials of a term are below its number and this many bits; so they rise over all terms."""


def genesis_head(states: Sequence[bytes]) -> bytes:
    """The head that a run begins with: named by the digests of its first state by fragment, so that
    the state of a seed that was replaced is never mistaken for the run's."""
    return hashlib.sha256(GENESIS + b"".join(states)).digest()


def term_of(serial: int) -> int:
    """The term of the coordinator, of which each of its starts is one, that gave this serial."""
    return serial >> TERM_BITS


@kind(30)
@dataclass(frozen=True, slots=True)
class Record:
    """One commit. An ordinary record moves one fragment by the weighted mean of its members'
    contributions. A *restoring* record (fragment `ALL_FRAGMENTS`) says that nobody who holds the
    head is left, and that the swarm goes on from the state named by ``result``, an earlier head."""

    parent: fields.Head
    index: fields.RecordIndex
    fragment: fields.RecordFragment
    epoch: fields.Epoch
    serial: fields.Serial
    chunk_elements: fields.ChunkElements
    members: fields.Keys
    weights: fields.Weights
    result: fields.Digest
    course: fields.CourseNumber = 0
    """The course whose chain this record belongs to: that of a stage (`peers.coordinator.course`)."""
    former: fields.Digest = NO_DIGEST
    """Of the state that an ordinary record moves, as members had agreed on it: whoever holds that state and
    the result can compute what follows. `NO_DIGEST` if they had not."""

    @property
    def restores(self) -> bool:
        return self.fragment == ALL_FRAGMENTS

    @property
    def term(self) -> int:
        return term_of(self.serial)

    def hash(self) -> bytes:
        """SHA-256 over the packed record: the name of the state after it."""
        return hashlib.sha256(b"diloco record\0" + pack_items(to_items(self))).digest()

    def num_chunks(self, num_elements: int) -> int:
        return -(-num_elements // max(1, self.chunk_elements))


def record_in(packed: bytes) -> Record:
    """The record that a message or an entry of the journal carries. Raises `BadFrame`, also for what has the
    fields of a record and could be none."""
    record = unpack(packed)
    if not isinstance(record, Record):
        raise BadFrame(f"{type(record).__name__} instead of a record")
    if len(record.weights) != len(record.members):
        raise BadFrame("a record without one weight for each member")
    if record.restores == bool(record.members):
        raise BadFrame("a record of nothing")
    if not record.restores and record.fragment >= MAX_FRAGMENTS:
        raise BadFrame(f"a record of fragment {record.fragment}, which no model has")
    return record
