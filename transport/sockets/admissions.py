"""Whose a connection is over which nothing came: libzmq asks for a key and an address, and says no more.

Of two keys that were admitted from one address at about the same time, neither is taken for the other. Pure:
time and what was admitted come in, and a key comes out or none.
"""

from __future__ import annotations

from collections import deque

REMEMBERED = 4096
"""Admissions that are kept."""
LAG_S = 2.0
"""So much later than it came, at most, a connection is heard of."""


class Admissions:
    """The latest admissions, in order."""

    def __init__(self) -> None:
        self._latest: deque[tuple[float, str, bytes]] = deque(maxlen=REMEMBERED)

    def admitted(self, now: float, address: str, key: bytes) -> None:
        """A handshake of this key from this address was let through."""
        self._latest.append((now, address, key))

    def only_key(self, address: str, heard_at: float) -> bytes | None:
        """The key of a connection from this address that was heard of at that time, and has one; None if it
        may be either of several."""
        since = heard_at - LAG_S
        if len(self._latest) == REMEMBERED and self._latest[0][0] >= since:
            return None  # what is forgotten may have been one as well
        found = {key for at, where, key in self._latest if at >= since and where == address}
        return found.pop() if len(found) == 1 else None
