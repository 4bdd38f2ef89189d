"""What whoever keeps files asks of a disk: the protocol alone.

`diloco.checkpoints.local_disk` does it with files, `transport.simnet.disk` with bytes that a crash may take
back. Paths are relative to the disk's root, with ``/`` between their parts. What was written survives a crash
once it was synced, and its name once the folder that holds the name was synced too. Every method raises
`OSError`, as `open` would.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Disk(Protocol):
    """A folder on a disk."""

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, sync: bool = True) -> None:
        """Make a file of the pieces, one after the other, in the place of one that was there; folders above
        it are made. With ``sync`` its bytes are on the disk when this returns; its name is not, see
        `sync_dir`. Where a piece cannot be had or written the file is left as far as it came."""

    def rename(self, old: str, new: str) -> None:
        """Give a file or folder another name, at once and whole; a file of the new name is replaced. Both
        names survive a crash one way or the other, until `sync_dir` makes the new one sure."""

    def sync_dir(self, path: str) -> None:
        """Make the names in a folder sure: those made, given and removed."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it; what is not there is no error."""

    def list(self, path: str) -> list[str]:
        """Names in a folder, sorted; none if it is not there."""

    def size(self, path: str) -> int:
        """Bytes of a file."""

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes of a file from ``offset``, fewer at its end; by default all that follow."""

    def free_bytes(self) -> int:
        """What may still be written."""
