"""State views: one fragment's bytes as a donor serves them, frozen at one version.

Owns how the bytes lie together, and their digest. Refuses to know where they come from: see `state` for outer
values, `model_tensors` for frozen parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diloco.errors import StateError
from transport.digests import digest_of, tree_digest
from transport.limits import LIMITS


class StateView:
    """The bytes of one fragment's state at one version: the number of outer steps (8 bytes) | outer
    parameters | the outer optimizer's buffers | the common mean of error feedback | the projection's state |
    frozen parameters in their own dtypes (last fragment only). It never changes, whatever the trainer does,
    and any thread may read it; dropping it frees what it holds."""

    def __init__(self, version: int, segments: list[memoryview]) -> None:
        self.version = version
        """Changes of the fragment's outer state on this machine until then."""
        self.size_bytes = sum(map(len, segments))
        self._segments = [segment for segment in segments if len(segment)]

    def followed_by(self, segments: list[memoryview]) -> StateView:
        """This view with more bytes at its end, which the caller keeps from changing."""
        return StateView(self.version, [*self._segments, *segments])

    def read(self, offset: int, length: int) -> memoryview | bytes:
        """``length`` bytes from ``offset``, less at the end; without a copy where they lie together."""
        parts: list[memoryview] = []
        for segment in self._segments:
            if length > 0 and offset < len(segment):
                parts.append(segment[offset : offset + length])
                length -= len(parts[-1])
            offset = max(0, offset - len(segment))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, piece_bytes: int = LIMITS.payload_bytes) -> Iterator[memoryview | bytes]:
        """All bytes, in pieces."""
        for offset in range(0, self.size_bytes, piece_bytes):
            yield self.read(offset, piece_bytes)

    def digests(self, piece_bytes: int = LIMITS.payload_bytes) -> list[bytes]:
        """That of each piece."""
        return [digest_of(piece) for piece in self.pieces(piece_bytes)]

    def digest(self, piece_bytes: int = LIMITS.payload_bytes) -> bytes:
        """`tree_digest` over those of all pieces: names the whole."""
        return tree_digest(self.digests(piece_bytes))


@dataclass(frozen=True, slots=True)
class FrozenTail:
    """What follows a fragment's outer state and never changes: as many of its bytes as fill up the piece in
    which that state ends, and the digests of the pieces behind."""

    head: bytes
    digests: list[bytes]

    @classmethod
    def of(
        cls, before: int, segments: list[memoryview], piece_bytes: int = LIMITS.payload_bytes
    ) -> FrozenTail:
        """Of the bytes in ``segments``, which follow ``before`` other ones."""
        whole = StateView(0, segments)
        split = min(-before % piece_bytes, whole.size_bytes)
        pieces = range(split, whole.size_bytes, piece_bytes)
        digests = [digest_of(whole.read(start, piece_bytes)) for start in pieces]
        return cls(bytes(whole.read(0, split)), digests)

    @classmethod
    def known(
        cls, before: int, frozen: memoryview, digests: list[bytes], piece_bytes: int = LIMITS.payload_bytes
    ) -> FrozenTail:
        """Of the bytes ``frozen`` behind ``before`` other ones; ``digests`` are those of all pieces."""
        split = min(-before % piece_bytes, len(frozen))
        return cls(bytes(frozen[:split]), digests[-(-before // piece_bytes) :])

    def digests_of(self, view: StateView, piece_bytes: int = LIMITS.payload_bytes) -> list[bytes]:
        """Those of all pieces of ``view`` and this behind it."""
        return [*view.followed_by([memoryview(self.head)]).digests(piece_bytes), *self.digests]


def require_size(found: int, size: int, fragment: int) -> None:
    """Refuse so many bytes as cannot be the state of ``fragment``. Raises `StateError`."""
    if found != size:
        raise StateError(f"state of fragment {fragment} has {found} bytes instead of {size}: another model?")
