"""What the bytes of a journal hold: entries, where each begins, and what is wrong behind the last of them.

Each entry is framed by its length and CRC. A crash tears the last entry at most, and that is no fault;
anything else that does not read is. Reads no file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.coordinator.journal import FORMAT, format_of, read_entry
from peers.errors import JournalError
from transport.errors import BadFrame

FRAME_BYTES = 8
MAX_BYTES = 4096
"""Of one entry."""
LEAST_BYTES = FRAME_BYTES + 3
"""An array of a kind and one small number, framed: no entry takes less."""


@dataclass(slots=True)
class Scan:
    """Entries up to the first that cannot be read."""

    entries: list[Any] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)
    """By entry: its first byte."""
    end: int = 0
    """Where the last of them ends."""
    fault: str = ""
    """What is wrong with the bytes behind, unless there are none, or a torn entry."""
    other_format: int | None = None
    """Of a journal that another version of this program wrote: no entry is read from where it shows."""

    def require_format(self, path: Path) -> None:
        """Raises `JournalError` for the journal of another version; ``path`` is its place."""
        if self.other_format is not None:
            age = "an older" if self.other_format < FORMAT else "a newer"
            raise JournalError(
                f"{path} has format {self.other_format}, of {age} version of this program: {FORMAT} is read. "
                "Go on with that version, or begin a new run with --fresh, from the old one's model if it is "
                "wanted (what that version's diloco export writes, with --from)"
            )


def framed(entry: bytes) -> bytes:
    """An entry as it stands in the file."""
    return len(entry).to_bytes(4, "big") + zlib.crc32(entry).to_bytes(4, "big") + entry


def body_at(data: bytes, at: int) -> bytes | None:
    """The whole entry that begins at a byte; None if none does."""
    size = int.from_bytes(data[at : at + 4], "big")
    body = data[at + FRAME_BYTES : at + FRAME_BYTES + size]
    crc = int.from_bytes(data[at + 4 : at + FRAME_BYTES], "big")
    whole = 0 < size <= MAX_BYTES and len(body) == size and zlib.crc32(body) == crc
    return body if whole else None


def scan(data: bytes) -> Scan:
    """Read a journal from its beginning."""
    found = Scan()
    while found.end < len(data):
        body = body_at(data, found.end)
        if body is None:
            found.fault = _fault_behind(data, found.end)
            break
        try:
            entry = read_entry(body)
        except BadFrame as error:
            found.fault = str(error)
            break
        if format_of(entry) not in (None, FORMAT):
            found.other_format = format_of(entry)
            break
        found.entries.append(entry)
        found.begins.append(found.end)
        found.end += FRAME_BYTES + len(body)
    return found


def _fault_behind(data: bytes, at: int) -> str:
    """What is wrong with an entry that is not whole; nothing if a crash may have left it so, which leaves one
    entry at most, and nothing behind it."""
    rest = len(data) - at
    if rest > MAX_BYTES + FRAME_BYTES:
        return "it is damaged"
    behind = range(at + 1, len(data) - LEAST_BYTES + 1)
    return "it is damaged, and whole ones follow" if any(body_at(data, i) for i in behind) else ""
