"""Where payloads of sealed lanes are decrypted to: buffers that are used again once nobody holds them.

A fresh buffer costs as much as decrypting into it, for the kernel clears its pages. Who got a payload may
keep it as long as it likes, also a part of it or an array over it: as long as anything refers to the buffer
it is given to nobody else. What of a payload was decrypted under a wrong tag is in a buffer that nobody was
given. Any thread may take one. Keeps R1.
"""

from __future__ import annotations

import sys
import threading
from collections import deque

_GRAIN = 64 * 1024
"""Sizes are rounded up to this, so that few kinds of buffers are kept."""
_SMALL = 8 * 1024
"""Up to this a payload gets a buffer of its own: that is cheap."""
_RECENT = 24
"""So many that were given out last are looked at first: what was in them may still lie in the cache."""
_LOOKS = 8
"""So many are looked at of those that were given out longest ago, before a fresh one is made."""


class Buffers:
    """At most ``most_bytes`` are kept; beyond that buffers are fresh, and forgotten when done with."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._free = _num_references(deque([bytearray(1)]))
        """To a buffer of which nobody has a part; versions of Python count differently."""
        self._lock = threading.Lock()
        self._kept: dict[int, deque[bytearray]] = {}
        self.kept_bytes = 0
        """Of all buffers here, free or not."""
        self.num_taken = 0
        """Buffers that were given out so far."""

    def take(self, size_bytes: int) -> memoryview:
        """Room for a payload of that size; what is in it is of no meaning."""
        if size_bytes <= _SMALL:
            return memoryview(bytearray(size_bytes))
        rounded = -(-size_bytes // _GRAIN) * _GRAIN
        with self._lock:
            self.num_taken += 1
            same = self._kept.setdefault(rounded, deque())
            if self._find_recent(same) or self._find_old(same):
                return memoryview(same[-1])[:size_bytes]
            if self.kept_bytes + rounded > self._most_bytes:
                return memoryview(bytearray(size_bytes))
            same.append(bytearray(rounded))
            self.kept_bytes += rounded
            return memoryview(same[-1])[:size_bytes]

    def _find_recent(self, same: deque[bytearray]) -> bool:
        """Whether one of the last ones is free; it is the last one then."""
        num_looks = min(len(same), _RECENT)
        for looks in range(num_looks):
            same.rotate(1)
            if _num_references(same) == self._free:
                found = same.popleft()
                same.rotate(-looks)
                same.append(found)
                return True
        same.rotate(-num_looks)
        return False

    def _find_old(self, same: deque[bytearray]) -> bool:
        """The same of the first ones."""
        for _ in range(min(len(same), _LOOKS)):
            is_free = _num_references(same) == self._free
            same.rotate(-1)
            if is_free:
                return True
        return False

    def drop_free(self) -> None:
        """Give back what nobody holds."""
        with self._lock:
            for size, same in self._kept.items():
                for _ in range(len(same)):
                    is_free = _num_references(same) == self._free
                    same.rotate(-1)
                    if is_free:
                        same.pop()
                        self.kept_bytes -= size


def _num_references(same: deque[bytearray]) -> int:
    """How many there are to the first of these."""
    buffer = same[0]
    return sys.getrefcount(buffer)
