"""Changes of the roster of a run that gossips, in batches: for a thousand members they are a million entries.

Every member reads the same sequence of batches, from the beginning when it enters; a batch is packed once,
and unpacked once by all who live in one process. Knows what a message takes, and not what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from peers.protocol.messages import MemberActive, MemberGone, MemberIs, RosterBatch
from transport.errors import BadFrame
from transport.frames import from_items, pack_items, to_items, unpack_items
from transport.limits import LIMITS

_BATCH_BYTES = 3000
_WAIT_S = 0.25
"""Changes wait so long for others, in a large roster."""
_SMALL = 16
"""Members up to which nothing waits."""
_KINDS = (MemberIs, MemberGone, MemberActive)

Send = Callable[[float, bytes, Any], None]


class RosterFeed:
    """The coordinator's side."""

    def __init__(self, send: Send, max_waiting: int = LIMITS.roster_changes) -> None:
        self._send = send
        self._max_waiting = max_waiting
        self._batches: list[bytes] = []
        self._waiting: list[list[Any]] = []
        self._since = 0.0
        self._read: dict[bytes, int] = {}
        """How many batches each member was sent."""

    def entered(self, now: float, key: bytes) -> None:
        """A member reads from the beginning."""
        self._read[key] = 0
        self._deliver(now, key)

    def left(self, key: bytes) -> None:
        """It reads no more."""
        self._read.pop(key, None)

    def add(self, now: float, message: MemberIs | MemberGone | MemberActive) -> None:
        """One change, for everybody."""
        if not self._waiting:
            self._since = now
        self._waiting.append(to_items(message))

    def flush(self, now: float, whole: Callable[[], Iterable[Any]]) -> None:
        """Send what has waited long enough. ``whole`` tells the roster as it is, for when the sequence has
        become much longer than that."""
        may_wait = len(self._read) > _SMALL and len(self._waiting) < self._max_waiting
        if not self._waiting or (may_wait and now - self._since < _WAIT_S):
            return
        self._batches += packed(self._waiting)
        self._waiting = []
        for key in self._read:
            self._deliver(now, key)
        if len(self._batches) > 16 + len(self._read):
            self._batches = packed([to_items(each) for each in whole()])
            self._read = dict.fromkeys(self._read, len(self._batches))

    def _deliver(self, now: float, key: bytes) -> None:
        for batch in self._batches[self._read[key] :]:
            self._send(now, key, RosterBatch(batch))
        self._read[key] = len(self._batches)


def packed(items: Iterable[list[Any]]) -> list[bytes]:
    """Messages as batches of bounded size."""
    batches: list[bytes] = []
    some: list[list[Any]] = []
    size = 0
    for each in items:
        takes = len(pack_items(each))
        if some and size + takes > _BATCH_BYTES:
            batches.append(pack_items(some))
            some, size = [], 0
        some.append(each)
        size += takes
    return [*batches, pack_items(some)] if some else batches


@lru_cache(1024)
def messages_in(batch: bytes) -> tuple[MemberIs | MemberGone | MemberActive, ...]:
    """The messages of a batch. Raises `BadFrame`."""
    items = unpack_items(batch)
    if not isinstance(items, list):
        raise BadFrame("news are not a list")
    messages = tuple(from_items(each) for each in items)
    if not all(isinstance(each, _KINDS) for each in messages):
        raise BadFrame("news of something else than the roster")
    return messages
