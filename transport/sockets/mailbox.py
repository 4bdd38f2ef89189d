"""What other threads tell the driver's thread, in order; it is woken once for many.

Reading is the driver's: it takes a bounded number at a time, so that its other sources have their turn.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from transport.sockets.libzmq import FRAMES_PER_ROUND, Poll

T = TypeVar("T")
_RANK = 4
"""As messages of members have."""


class Mailbox(Generic[T]):
    """``take`` is called on the driver's thread with each thing that was put in."""

    def __init__(self, poll: Poll, take: Callable[[T], None]) -> None:
        self._poll, self._take = poll, take
        self._waiting: deque[T] = deque()
        self._is_woken = False
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        poll.watch(self._woken.fileno(), _RANK, self._serve)

    def put(self, thing: T) -> None:
        """Tell it; on any thread."""
        self._waiting.append(thing)
        if not self._is_woken:
            self._wake()

    def close(self) -> list[T]:
        """Take no more; returns what was not taken."""
        self._poll.unwatch(self._woken.fileno())
        return self.forked()

    def forked(self) -> list[T]:
        """Also in a forked child: close its descriptors; returns what was not taken."""
        self._woken.close()
        self._waker.close()
        return list(self._waiting)

    def _wake(self) -> None:
        self._is_woken = True
        with suppress(OSError):  # a full pipe already holds a wake-up; a closed one has nobody to wake
            self._waker.send(b"x")

    def _serve(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        self._is_woken = False
        for _ in range(FRAMES_PER_ROUND):
            if not self._waiting:
                return
            self._take(self._waiting.popleft())
        self._wake()
