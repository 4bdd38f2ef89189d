"""Shape of a record: what its fixed header of 16 bytes says, and which headers our side never makes.

A record is a frame: the msgpack header of the frame is its *prefix*, and its payload follows, if it has one.
Both lengths are in a header with a seal of its own, and are bounded here before anybody uses them. Sessions
are in the keys, acknowledgements and credit in the prefix as in any frame. Keeps X2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from transport.errors import BadMessage
from transport.limits import Limits

HEADER_BYTES = 16
TAG_BYTES = 16
SEALED_HEADER_BYTES = HEADER_BYTES + TAG_BYTES
_LAYOUT = struct.Struct(">HHIQ")
assert _LAYOUT.size == HEADER_BYTES


class Kind(IntEnum):
    """What a record is."""

    FRAME = 1


@dataclass(frozen=True, slots=True)
class Record:
    """The header of one record."""

    kind: Kind
    prefix_bytes: int
    payload_bytes: int | None = None
    """None for a frame without a payload, which is not one with an empty payload."""

    @property
    def parts(self) -> list[int]:
        """Sealed bytes of what follows the header: the prefix, and the payload if there is one."""
        prefix = self.prefix_bytes + TAG_BYTES
        return [prefix] if self.payload_bytes is None else [prefix, self.payload_bytes + TAG_BYTES]

    @property
    def sealed_bytes(self) -> int:
        """Bytes of the whole record on the wire."""
        return SEALED_HEADER_BYTES + sum(self.parts)

    def pack(self) -> bytes:
        """The plain header."""
        payload = self.payload_bytes
        return _LAYOUT.pack(self.kind, self.prefix_bytes, payload is not None, payload or 0)


def max_sealed_bytes(limits: Limits) -> int:
    """Bytes of the largest record."""
    return Record(Kind.FRAME, limits.header_bytes, limits.payload_bytes).sealed_bytes


def parse(plain: bytes | bytearray, limits: Limits) -> Record:
    """The record of a header whose tag is right. Raises `BadMessage` for what its author never makes."""
    kind, prefix_bytes, has_payload, payload_bytes = _LAYOUT.unpack(plain)
    if kind != Kind.FRAME:
        raise BadMessage(f"a record of the unknown kind {kind}")
    if not 0 < prefix_bytes <= limits.header_bytes:
        raise BadMessage(f"a header of {prefix_bytes} bytes is not one of 1 to {limits.header_bytes}")
    if payload_bytes > limits.payload_bytes:
        raise BadMessage(f"a payload of {payload_bytes} bytes exceeds {limits.payload_bytes}")
    if has_payload > 1 or (payload_bytes and not has_payload):
        raise BadMessage("a record does not know whether it has a payload")
    return Record(Kind.FRAME, prefix_bytes, payload_bytes if has_payload else None)
