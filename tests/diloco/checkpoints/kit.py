"""A disk that is full: for the tests of checkpoints. Small replicas are those of `scripts/torn_saves.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from diloco.checkpoints.local_disk import LocalDisk


class FullDisk(LocalDisk):
    """A disk with room for so many bytes; what is free it tells as it likes."""

    def __init__(self, root: Path, room: int, says: int = 1 << 40) -> None:
        super().__init__(root)
        self.room, self.says = room, says

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, sync: bool = True) -> None:
        def bounded() -> Iterator[bytes | memoryview]:
            for piece in pieces:
                if len(piece) > self.room:
                    raise OSError(28, "No space left on device")
                self.room -= len(piece)
                yield piece

        super().write(path, bounded(), sync=sync)

    def free_bytes(self) -> int:
        return self.says
