"""A folder of this machine as a `transport.disk.Disk`: files and folders that only their owner may read.

Shell code: it decides nothing. A file is synced by what its bytes need (fdatasync), a folder for its names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diloco.errors import CheckpointError

_BINARY = getattr(os, "O_BINARY", 0)
"""Windows would write other line ends without it."""


class LocalDisk:
    """All below ``root``, which is made with the first file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, sync: bool = True) -> None:
        """See `transport.disk.Disk`."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o600)
        try:
            for piece in pieces:
                _write_all(descriptor, piece)
            if sync:
                _sync_data(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: str, new: str) -> None:
        """See `transport.disk.Disk`."""
        os.replace(self.root / old, self.root / new)

    def sync_dir(self, path: str) -> None:
        """See `transport.disk.Disk`."""
        descriptor = os.open(self.root / path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: str) -> None:
        """See `transport.disk.Disk`."""
        target = self.root / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def list(self, path: str) -> list[str]:
        """See `transport.disk.Disk`."""
        try:
            return sorted(os.listdir(self.root / path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, path: str) -> int:
        """See `transport.disk.Disk`."""
        return (self.root / path).stat().st_size

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `transport.disk.Disk`."""
        with open(self.root / path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def free_bytes(self) -> int:
        """See `transport.disk.Disk`: what an ordinary user may still write there."""
        there = self.root
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free


ANYWHERE = LocalDisk(Path())
"""Paths on it are as people write them, so that what is said of a file names it whole."""


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """What cannot be read within is a `CheckpointError` with its name, or that of ``path``."""
    try:
        yield
    except OSError as error:
        name = path if error.filename is None else error.filename
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}") from None


def _write_all(descriptor: int, piece: bytes | memoryview) -> None:
    """A write may take less than it was given."""
    rest = memoryview(piece).cast("B")
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]


def _sync_data(descriptor: int) -> None:
    """Where the system knows no fdatasync (macOS), fsync."""
    getattr(os, "fdatasync", os.fsync)(descriptor)
