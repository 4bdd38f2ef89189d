"""What happened in a simulated network, as one hash and, if wanted, as text: equal seeds, equal traces (D1).

Owns the entries that are not hashed yet; knows no event by name.
"""

from __future__ import annotations

import hashlib
from typing import Any

_AT_ONCE = 1000
"""Entries hashed together, which is cheaper than one by one."""


class TraceLog:
    """Entries in the order in which they happened."""

    def __init__(self) -> None:
        self.lines: list[str] | None = None
        """Set to a list to keep the trace as text."""
        self._hash = hashlib.sha256()
        self._entries: list[tuple[Any, ...]] = []

    def add(self, now_ns: int, key: bytes, what: tuple[Any, ...]) -> None:
        """One thing that happened at the peer with this key."""
        if self.lines is not None:
            self.lines.append(" ".join([f"{now_ns}", key[:4].hex(), *map(str, what)]))
        self._entries.append((now_ns, key[:4], *what))
        if len(self._entries) >= _AT_ONCE:
            self._hash.update(repr(self._entries).encode())
            self._entries = []

    def digest(self) -> str:
        """Over everything that happened so far. Asking changes no later digest."""
        found = self._hash.copy()
        if self._entries:
            found.update(repr(self._entries).encode())
        return found.hexdigest()
