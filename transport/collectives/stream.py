"""One tensor on its way between two peers: its pieces, what of it has come, and what is to be sent again.

A tensor is bytes of a size that both ends know from what was agreed: never from a frame, and never what they
mean. It is cut into pieces of one size, the last one shorter; an empty one is one empty piece. What is under
way when a link begins anew is lost: then the receiver says which pieces it has (`Incoming.have`), the sender
goes on with the others (`Outgoing.begin_anew`), and what comes twice is dropped. Which tensor it is, whether
there is a slot for it, and when a piece may be sent is decided above. Keeps R1 and X2.
"""

from __future__ import annotations

from collections import deque

from transport.effects import Payload, Phantom, size_bytes
from transport.errors import BadFrame


def num_pieces(tensor_bytes: int, piece_bytes: int) -> int:
    """Pieces of a tensor."""
    return max(1, -(-tensor_bytes // piece_bytes))


def most_have_bytes(tensor_bytes: int, piece_bytes: int) -> int:
    """Length of what `Incoming.have` says of a tensor."""
    return (num_pieces(tensor_bytes, piece_bytes) + 7) // 8


class Outgoing:
    """A tensor that is sent to one peer; its pieces leave in order."""

    def __init__(self, payload: Payload, piece_bytes: int) -> None:
        self.payload = payload
        self._piece_bytes = piece_bytes
        self._size_bytes = size_bytes(payload)
        self._left = deque(range(num_pieces(self._size_bytes, piece_bytes)))

    @property
    def all_left(self) -> bool:
        """Every piece was handed over, since it last began anew."""
        return not self._left

    @property
    def next_bytes(self) -> int:
        """Size of the piece that leaves next; there is one."""
        return self._length(self._left[0])

    def pop(self) -> tuple[int, Payload]:
        """The piece that leaves next: its index, and its bytes, which are not copied."""
        index = self._left.popleft()
        if isinstance(self.payload, Phantom):
            return index, Phantom(self._length(index), self.payload.digest)
        begins = index * self._piece_bytes
        return index, memoryview(self.payload).cast("B")[begins : begins + self._length(index)]

    def begin_anew(self, have: bytes = b"") -> None:
        """What was under way is lost; the other end has these pieces, or none. Raises `BadFrame` for what
        nobody says who has pieces of this tensor."""
        num = num_pieces(self._size_bytes, self._piece_bytes)
        if have and len(have) != (num + 7) // 8:
            raise BadFrame(f"{len(have)} bytes do not say which of {num} pieces are there")
        bits = int.from_bytes(have, "little")
        if bits >> num:
            raise BadFrame("a piece is there that is none")
        self._left = deque(index for index in range(num) if not bits >> index & 1)

    def _length(self, index: int) -> int:
        return min(self._piece_bytes, self._size_bytes - index * self._piece_bytes)


class Incoming:
    """A tensor that comes from one peer, in any order; its memory is taken when the first piece comes."""

    def __init__(self, tensor_bytes: int, piece_bytes: int) -> None:
        self._size_bytes, self._piece_bytes = tensor_bytes, piece_bytes
        self._num = num_pieces(tensor_bytes, piece_bytes)
        self._bits = 0
        self._whole: Payload | None = None

    @property
    def is_whole(self) -> bool:
        """Every piece is here."""
        return self._bits == (1 << self._num) - 1

    @property
    def payload(self) -> Payload:
        """The tensor, once it is whole."""
        assert self.is_whole, "pieces are missing"
        assert self._whole is not None
        return self._whole

    @property
    def num_missing(self) -> int:
        """Pieces that have not come."""
        return self._num - self._bits.bit_count()

    def have(self) -> bytes:
        """Which pieces are here: one bit each, the lowest of the first byte for the first."""
        return self._bits.to_bytes((self._num + 7) // 8, "little")

    def take(self, index: int, payload: Payload) -> bool:
        """One piece; False if it came before. Raises `BadFrame` for one that this tensor does not have."""
        if index >= self._num:
            raise BadFrame(f"piece {index} of a tensor of {self._num}")
        wanted = min(self._piece_bytes, self._size_bytes - index * self._piece_bytes)
        if size_bytes(payload) != wanted:
            raise BadFrame(f"a piece of {size_bytes(payload)} bytes instead of {wanted}")
        if self._bits >> index & 1:
            return False
        self._put(index, payload)
        self._bits |= 1 << index
        return True

    def _put(self, index: int, payload: Payload) -> None:
        if isinstance(payload, Phantom):
            self._whole = Phantom(self._size_bytes, payload.digest)
        elif self._num == 1:
            self._whole = payload
        else:
            if not isinstance(self._whole, bytearray):
                self._whole = bytearray(self._size_bytes)
            begins = index * self._piece_bytes
            self._whole[begins : begins + size_bytes(payload)] = memoryview(payload).cast("B")
