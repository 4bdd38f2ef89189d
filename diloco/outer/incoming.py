"""A fragment's state on its way here: each piece is written where it will stay.

Owns memory that becomes the outer state as a whole (`OuterState.take_over`), so that a large model's state is
neither copied once more nor hashed again: the digests by which pieces were checked are the state's own.
Refuses to know where pieces come from and whether they are right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diloco.compression.vectors import Buffer, bytes_of
from diloco.outer.fragment_step import COUNT_BYTES
from transport.effects import Payload, Phantom
from transport.limits import LIMITS


class IncomingState:
    """The bytes of a `StateView`, put together (`transport.collectives.fetch.BlobBuffer`)."""

    def __init__(self, values: Tensor, frozen_bytes: int, piece_bytes: int = LIMITS.payload_bytes) -> None:
        """``values`` is memory for the outer state; behind it come so many bytes of frozen parameters."""
        self.values = values
        self._piece_bytes = piece_bytes
        self._count = memoryview(bytearray(COUNT_BYTES))
        self.frozen = bytes_of(torch.empty(frozen_bytes, dtype=torch.uint8))
        self._segments = [self._count, bytes_of(values), self.frozen]
        self._put: dict[int, bytes] = {}
        """Digests of the pieces that came."""
        self._digests: list[bytes] = []

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    @property
    def count(self) -> int:
        """Outer steps."""
        return int.from_bytes(self._count, "little")

    @property
    def digests(self) -> list[bytes]:
        """Of all pieces, if they are known."""
        if self._digests:
            return self._digests
        num_pieces = -(-len(self) // self._piece_bytes)
        return [self._put[i] for i in range(num_pieces)] if len(self._put) == num_pieces else []

    def name_pieces(self, digests: list[bytes]) -> None:
        """These are the digests of the pieces, also of frozen parameters that are not among the bytes."""
        self._digests = digests

    def put(self, index: int, payload: Payload, digest: bytes) -> None:
        """Take one piece, which was checked and has that digest."""
        assert not isinstance(payload, Phantom), "its digest is that of bytes"
        self.write(index * self._piece_bytes, payload)
        self._put[index] = digest

    def write(self, offset: int, data: Buffer) -> None:
        """Put bytes at their place."""
        left = memoryview(data)
        for segment in self._segments:
            if offset < len(segment):
                part = segment[offset : offset + len(left)]
                part[:] = left[: len(part)]
                left = left[len(part) :]
            offset = max(0, offset - len(segment))
        assert not len(left), "bytes beyond the end"
