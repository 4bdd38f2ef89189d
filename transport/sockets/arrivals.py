"""Waiting for bytes of a TCP connection, woken seldom: once all that is wanted has come, or a large step.

By itself the kernel wakes a reader for every few packets, and to put a thread to sleep and wake it again
takes longer than to copy what they bring. Decides nothing about what the bytes are. The kernel is always
asked before anybody waits, so the end of a connection is seen at once.
"""

from __future__ import annotations

import select
import socket
import sys

STEP_BYTES = 256 * 1024
"""Whoever wants more is woken for so many: copying them and what comes meanwhile overlap."""


class Arrivals:
    """Those of one socket; one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._least = 1
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def read(self, into: memoryview) -> int:
        """Bytes that have come, without waiting; 0 at the end. Raises `BlockingIOError` if there are none:
        then the socket counts as readable once ``into`` could be filled, or a step of it, and at the end."""
        try:
            return self._sock.recv_into(into, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._wake_at(min(len(into), STEP_BYTES))
            raise

    def wait(self) -> None:
        """Return when it is readable."""
        self._poll.poll()

    def _wake_at(self, least: int) -> None:
        if least != self._least and sys.platform == "linux":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            self._least = least
