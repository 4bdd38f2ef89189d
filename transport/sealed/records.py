"""Shape of a record: what its fixed header of 64 bytes says, and which headers our side never makes.

A record is a frame. Parts and means, which are nearly all that is sent, are numbers alone: their place is
known before the payload is decrypted. Any other frame has its msgpack header as a *prefix* before its
payload. Both sessions are in the keys, so no record names them. Every length is bounded here before anybody
uses it. Keeps X2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from transport.errors import BadMessage
from transport.limits import Limits

HEADER_BYTES = 64
TAG_BYTES = 16
SEALED_HEADER_BYTES = HEADER_BYTES + TAG_BYTES
_LAYOUT = struct.Struct(">HHIQQQQQQII")
assert _LAYOUT.size == HEADER_BYTES
MAX_LONG, MAX_SHORT = (1 << 64) - 1, (1 << 32) - 1


class Kind(IntEnum):
    """What a record is."""

    FRAME = 1
    """Any frame: its header is the prefix."""
    PART = 2
    MEAN = 3
    """Of a chunk, without proof."""
    TAKEN = 4
    """How many records of the other direction were taken, of those that are not of this kind."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the header of a part or a mean says beside lengths; all 0 in other records, but for `control` in
    `Kind.TAKEN`, which counts there."""

    control: int = 0
    bulk: int = 0
    credit: int = 0
    seq: int = 0
    serial: int = 0
    attempt: int = 0
    chunk: int = 0


NO_NUMBERS = Numbers()


@dataclass(frozen=True, slots=True)
class Record:
    """The header of one record."""

    kind: Kind
    prefix_bytes: int = 0
    payload_bytes: int | None = None
    """None for a frame without a payload, which is not one with an empty payload."""
    numbers: Numbers = NO_NUMBERS

    @property
    def parts(self) -> list[int]:
        """Sealed bytes of the prefix and of the payload, of those that follow the header."""
        prefix = [self.prefix_bytes + TAG_BYTES] if self.prefix_bytes else []
        return prefix if self.payload_bytes is None else [*prefix, self.payload_bytes + TAG_BYTES]

    @property
    def sealed_bytes(self) -> int:
        """Bytes of the whole record on the wire."""
        return SEALED_HEADER_BYTES + sum(self.parts)

    def pack(self) -> bytes:
        """The plain header."""
        n, payload = self.numbers, self.payload_bytes
        return _LAYOUT.pack(
            self.kind,
            self.prefix_bytes,
            payload is not None,
            payload or 0,
            n.control,
            n.bulk,
            n.credit,
            n.seq,
            n.serial,
            n.attempt,
            n.chunk,
        )


def max_sealed_bytes(limits: Limits) -> int:
    """Bytes of the largest record."""
    return Record(Kind.FRAME, limits.header_bytes, limits.payload_bytes).sealed_bytes


def taken(num_records: int) -> Record:
    """The record that says how many were taken."""
    return Record(Kind.TAKEN, numbers=Numbers(control=num_records))


def parse(plain: bytes | bytearray, limits: Limits) -> Record:
    """The record of a header whose tag is right. Raises `BadMessage` for what its author never makes."""
    number, prefix_bytes, has_payload, size_bytes, *numbers = _LAYOUT.unpack(plain)
    try:
        kind = Kind(number)
    except ValueError:
        raise BadMessage(f"a record of the unknown kind {number}") from None
    if prefix_bytes > limits.header_bytes:
        raise BadMessage(f"a header of {prefix_bytes} bytes exceeds {limits.header_bytes}")
    if size_bytes > limits.payload_bytes:
        raise BadMessage(f"a payload of {size_bytes} bytes exceeds {limits.payload_bytes}")
    if has_payload > 1 or (size_bytes and not has_payload):
        raise BadMessage("a record does not know whether it has a payload")
    record = Record(kind, prefix_bytes, size_bytes if has_payload else None, Numbers(*numbers))
    if not _is_shaped(record):
        raise BadMessage(f"a record that is no {kind.name.lower()}")
    return record


def _is_shaped(record: Record) -> bool:
    n = record.numbers
    match record.kind:
        case Kind.FRAME:
            return record.prefix_bytes > 0 and n == NO_NUMBERS
        case Kind.TAKEN:
            return not record.parts and n == Numbers(control=n.control)
        case _:
            return record.prefix_bytes == 0 and record.payload_bytes is not None
