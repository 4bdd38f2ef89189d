"""A payload in pieces, and together again.

The size of a payload is known beforehand, so no piece says how many there are.
"""

from __future__ import annotations

from transport.effects import Payload, Phantom, size_bytes
from transport.errors import BadFrame


def num_pieces(total_bytes: int, piece_bytes: int) -> int:
    """Pieces of a payload; one without bytes is one piece too."""
    return max(1, -(-total_bytes // piece_bytes))


def size_of_piece(total_bytes: int, piece_bytes: int, index: int) -> int:
    """Bytes of one piece."""
    return min(piece_bytes, total_bytes - index * piece_bytes)


def piece_of(payload: Payload, piece_bytes: int, index: int) -> Payload:
    """One piece; of a phantom that has the same digest."""
    begin = index * piece_bytes
    if isinstance(payload, Phantom):
        return Phantom(size_of_piece(payload.size_bytes, piece_bytes, index), payload.digest)
    return (
        memoryview(payload).cast("B")[begin : begin + piece_bytes]
        if begin or piece_bytes < len(payload)
        else payload
    )


class Assembly:
    """Pieces of one payload as they come, each once and in any order."""

    def __init__(self, total_bytes: int, piece_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._piece_bytes = piece_bytes
        self._missing = set(range(num_pieces(total_bytes, piece_bytes)))
        self._whole: bytearray | Phantom | None = None

    def put(self, index: int, payload: Payload) -> Payload | None:
        """Take a piece; the whole once that was the last. Raises `BadFrame` for one that does not fit."""
        last = num_pieces(self._total_bytes, self._piece_bytes) - 1
        if index > last:
            raise BadFrame(f"piece {index} of a payload that has {last + 1}")
        if size_bytes(payload) != size_of_piece(self._total_bytes, self._piece_bytes, index):
            raise BadFrame(f"a piece of {size_bytes(payload)} bytes where the payload has another size")
        if index not in self._missing:
            return None
        self._missing.remove(index)
        if isinstance(payload, Phantom):
            self._whole = Phantom(self._total_bytes, payload.digest)
        else:
            if not isinstance(self._whole, bytearray):
                self._whole = bytearray(self._total_bytes)
            begin = index * self._piece_bytes
            self._whole[begin : begin + size_bytes(payload)] = payload
        return None if self._missing else self._whole
