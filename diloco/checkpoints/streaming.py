"""Bytes on their way to a file: hashed as they go, with a pause after each piece.

Owns no thread and no file: who writes at leisure passes a ``pause`` that sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from transport.digests import hasher


class Hashed:
    """The ``pieces``, one after the other; once they are gone through, their size and digest."""

    def __init__(
        self, pieces: Iterable[bytes | memoryview], pause: Callable[[], None] = lambda: None
    ) -> None:
        self.size_bytes = 0
        self._pieces = pieces
        self._pause = pause
        self._hash = hasher()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for piece in self._pieces:
            self._hash.update(piece)
            self.size_bytes += len(piece)
            yield piece
            self._pause()

    def hexdigest(self) -> str:
        """The digest of all pieces so far, in hex."""
        return self._hash.hexdigest()
