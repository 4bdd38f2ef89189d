"""Checks of states: 128 bits by which members see at every commit whether they hold the same bits.

xxh3 is as fast as memory, so that a check costs next to nothing beside the step that writes a state. It finds
what goes wrong by itself. Who wants to can make up other bytes with the same check: where bytes come from
others they go by cryptographic digests (`snapshot`). Keeps S1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from xxhash import xxh3_128, xxh3_128_digest

from diloco.compression.vectors import bytes_of, spans

_COUNT_BYTES = 8


class Written:
    """The check of a state, from its vectors [n] while they are written slice by slice: each slice is looked
    at while it lies in the cache."""

    def __init__(self, vectors: Sequence[Tensor]) -> None:
        self._views = [bytes_of(vector) for vector in vectors]
        self._hashes = [xxh3_128() for _ in vectors]
        self._taken = 0

    def take(self, span: slice) -> None:
        """The elements of a slice, the next one, are written in all vectors."""
        for view, each in zip(self._views, self._hashes, strict=True):
            each.update(view[4 * span.start : 4 * span.stop])
        self._taken = span.stop

    def check(self, count: int, projection: Tensor) -> bytes:
        """Of the whole, which is behind ``count`` outer steps and ends with that ``projection``. What was not
        told of as written is looked at now."""
        self.take(slice(self._taken, max(len(view) // 4 for view in self._views)))
        parts = [each.digest() for each in self._hashes]
        parts += [xxh3_128_digest(bytes_of(projection)), count.to_bytes(_COUNT_BYTES, "little")]
        return xxh3_128_digest(b"".join(parts))


def check_of(vectors: Sequence[Tensor], count: int, projection: Tensor) -> bytes:
    """The check of a state as it lies."""
    written = Written(vectors)
    for span in spans(vectors[0]):
        written.take(span)
    return written.check(count, projection)


def check_of_bytes(segments: Sequence[memoryview]) -> bytes:
    """The check of bytes that follow a state; empty if there are none."""
    behind = xxh3_128()
    for segment in segments:
        behind.update(segment)
    return behind.digest() if any(map(len, segments)) else b""


def followed_by(check: bytes, behind: bytes) -> bytes:
    """The check of a state and what follows it, which has the check ``behind``."""
    return xxh3_128_digest(check + behind) if behind else check
