"""The file of the coordinator's journal: appended to only, and on disk before a decision is said.

A shell that decides nothing. What an entry is stands in `peers.coordinator.journal`, what a file of them must
look like in `peers.coordinator.journal_scan`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from peers.coordinator.journal_scan import framed, scan
from peers.errors import JournalError


class Journal:
    """An append-only file. Every append is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: what could not be written must not come later by itself.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (it stays open as long as the run)
        self._whole_bytes: int | None = None
        """Where the last whole entry ends, if an append failed and its rest is perhaps there still."""
        self._begins = [0]
        """Where entries begin that were read, and where the last of them ends."""
        self.torn_bytes = 0
        """Of a last entry that was not whole when it was read, and is cut off."""
        os.chmod(path, 0o600)

    def entries(self) -> list[Any]:
        """Everything that was decided. A torn last entry, as a crash leaves it, is cut off.
        Raises `JournalError`."""
        self._file.seek(0)
        data = self._file.read()
        found = scan(data)
        found.require_format(self._path)
        self._begins = [*found.begins, found.end]
        if found.fault:
            raise self.unusable(len(found.begins) + 1, found.fault)
        self.torn_bytes = len(data) - found.end
        if self.torn_bytes:
            self._file.truncate(found.end)
        return found.entries

    def unusable(self, number: int, reason: str) -> JournalError:
        """The error that says why the run cannot go on with the entry of that number, the first being 1, and
        what can be done."""
        where = f"{self._path}: entry {number}, at byte {self._begins[number - 1]}, cannot be used: {reason}"
        return JournalError(
            f"{where}. diloco host RUN.toml --truncate-at {number} goes on with what is before it, says "
            "what that loses, and keeps this file beside"
        )

    def append(self, entry: bytes) -> None:
        """Write one entry and wait until the disk has it. Raises OSError (a full disk, say): then the entry
        is not in the journal, and may be appended again."""
        self._cut_rest()
        frame = framed(entry)
        self._whole_bytes = self._file.seek(0, os.SEEK_END)
        try:
            self._write(frame)
        except OSError:
            with suppress(OSError):  # else before the next one
                self._cut_rest()
            raise
        self._whole_bytes = None

    def _write(self, frame: bytes) -> None:
        while frame:
            frame = frame[self._file.write(frame) :]
        os.fsync(self._file.fileno())

    def _cut_rest(self) -> None:
        if self._whole_bytes is not None:
            os.ftruncate(self._file.fileno(), self._whole_bytes)
            self._whole_bytes = None

    def close(self) -> None:
        self._file.close()
