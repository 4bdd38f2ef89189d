"""One tensor on its way between two peers: its pieces, and the whole again.

Both ends know its size from what was agreed: no frame says how large it is or in how many pieces it comes,
nor what it means. An empty tensor is one empty piece. What comes twice is dropped; a tensor that a link lost
with its session is sent again as a whole. Which tensor it is, whether there is a slot for it, and when a
piece may be sent is decided above. Keeps R1 and X2.
"""

from __future__ import annotations

from transport.effects import Payload, Phantom, size_bytes
from transport.errors import BadFrame


def num_pieces(total_bytes: int, piece_bytes: int) -> int:
    """Pieces of a tensor of that size."""
    return max(1, -(-total_bytes // piece_bytes))


def size_of_piece(total_bytes: int, piece_bytes: int, index: int) -> int:
    """Bytes of one piece."""
    return min(piece_bytes, total_bytes - index * piece_bytes)


def piece_of(payload: Payload, piece_bytes: int, index: int) -> Payload:
    """One piece, which is not copied; of a phantom that has the same digest."""
    if isinstance(payload, Phantom):
        return Phantom(size_of_piece(payload.size_bytes, piece_bytes, index), payload.digest)
    if not index and size_bytes(payload) <= piece_bytes:
        return payload
    begins = index * piece_bytes
    return memoryview(payload).cast("B")[begins : begins + piece_bytes]


class Assembly:
    """Pieces of one tensor as they come, in any order. Its memory is taken when the first of several comes; a
    tensor of one piece is what came."""

    def __init__(self, total_bytes: int, piece_bytes: int) -> None:
        self._total_bytes, self._piece_bytes = total_bytes, piece_bytes
        self._num = num_pieces(total_bytes, piece_bytes)
        self._missing = (1 << self._num) - 1
        """A bit for each piece that has not come."""
        self._whole: bytearray | Phantom | None = None

    def put(self, index: int, payload: Payload) -> Payload | None:
        """Take a piece; the whole once that was the last. Raises `BadFrame` for one that does not fit."""
        if index >= self._num:
            raise BadFrame(f"piece {index} of a tensor of {self._num}")
        wanted = size_of_piece(self._total_bytes, self._piece_bytes, index)
        if size_bytes(payload) != wanted:
            raise BadFrame(f"a piece of {size_bytes(payload)} bytes instead of {wanted}")
        if not self._missing >> index & 1:
            return None
        self._missing ^= 1 << index
        if self._num == 1:
            return payload
        if isinstance(payload, Phantom):
            self._whole = Phantom(self._total_bytes, payload.digest)
        else:
            if not isinstance(self._whole, bytearray):
                self._whole = bytearray(self._total_bytes)
            begins = index * self._piece_bytes
            self._whole[begins : begins + wanted] = memoryview(payload).cast("B")
        return None if self._missing else self._whole
