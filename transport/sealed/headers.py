"""Frames of a link as records and back, so that the core sees the same bytes over any kind of connection.

The header of a part or of a mean is the same few numbers each time, and both sessions are in the key: such a
frame becomes a record of numbers, and its place is known before its payload. Every other frame keeps its
header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transport.effects import Payload, size_bytes
from transport.frames import pack_items, unpack_items
from transport.limits import LIMITS, Limits
from transport.sealed.keys import Session
from transport.sealed.records import MAX_SHORT, Kind, Numbers, Record

HELLO, ACK = 1, 2
"""Kinds of `transport.link.messages`."""
KINDS_OF_CHUNKS = {10: Kind.PART, 11: Kind.MEAN}
"""By kinds of `transport.collectives.chunks`."""
_NUMBERS = {kind: number for number, kind in KINDS_OF_CHUNKS.items()}
NOBODY = (0, 0)

Sessions = tuple[Session, Session]
"""Of whoever sends, and of whoever receives."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the payload of a part or mean belongs."""

    kind: Kind
    serial: int
    attempt: int
    chunk: int


def sessions_of(header: bytes) -> Sessions | None:
    """Between which sessions a greeting of our own core is; None for what is no greeting, or is said to one
    who is not known yet."""
    if header[2:3] != bytes([HELLO]):
        return None
    hello = unpack_items(header)[0]
    sessions = tuple(hello[1:3]), tuple(hello[3:5])
    return None if sessions[1] == NOBODY else sessions


def record_of(
    header: bytes, payload: Payload | None, sessions: Sessions, limits: Limits = LIMITS
) -> tuple[Record, bytes]:
    """The record for a frame of our own core, and its prefix."""
    payload_bytes = None if payload is None else size_bytes(payload)
    if payload_bytes is not None:
        found = _chunk_in(unpack_items(header, limits), sessions)
        if found is not None:
            return Record(found[0], 0, payload_bytes, found[1]), b""
    return Record(Kind.FRAME, len(header), payload_bytes), header


def header_of(record: Record, prefix: bytes, sessions: Sessions) -> bytes:
    """The header of the frame that a record of the other end is; ``sessions`` are as it sees them."""
    assert record.kind is not Kind.TAKEN, "that is no frame"
    if record.kind is Kind.FRAME:
        return prefix
    n = record.numbers
    link_header = [ACK, *sessions[0], *sessions[1], n.control, n.bulk, n.credit, n.seq]
    return pack_items([link_header, [_NUMBERS[record.kind], n.serial, n.attempt, n.chunk]])


def place_of(record: Record) -> Place | None:
    """The place of a payload; None if only its prefix, or nothing, tells."""
    if record.kind not in _NUMBERS:
        return None
    n = record.numbers
    return Place(record.kind, n.serial, n.attempt, n.chunk)


def _chunk_in(items: Any, sessions: Sessions) -> tuple[Kind, Numbers] | None:
    if len(items) != 2 or not _is_ack(items[0], sessions):
        return None
    kind = KINDS_OF_CHUNKS.get(items[1][0])
    if kind is None or len(items[1]) != 4 or max(items[1][2:]) > MAX_SHORT:
        return None
    return kind, Numbers(*items[0][5:], *items[1][1:])


def _is_ack(items: Sequence[int], sessions: Sessions) -> bool:
    return items[0] == ACK and tuple(items[1:5]) == (*sessions[0], *sessions[1])
