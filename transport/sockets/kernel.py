"""What the operating system knows of a connection of libzmq's, by its descriptor, and the end of one.

libzmq says neither to whom a connection of a ROUTER goes, nor how much of it is in memory, and has no call
that breaks one. Descriptors are borrowed: they stay libzmq's, and one that is closed or belongs to another
connection by now is found out by its two ends.
"""

from __future__ import annotations

import array
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Handle = tuple[int, object]
"""Descriptor and both ends of a connection."""

_BYTES_RECEIVED = struct.Struct("=128xQ")
"""Where Linux has ``tcpi_bytes_received`` in its TCP_INFO, from 4.1 on."""
_PROGRESS = struct.Struct("=120xQ20xI")
"""Where it has ``tcpi_bytes_acked`` and ``tcpi_min_rtt``, from 4.6 on."""
_NEVER_SEEN = (1 << 32) - 1


def remote(descriptor: int) -> Handle | None:
    """What identifies a connection of libzmq's; None when it is gone already, and its descriptor belongs to
    nothing or to something else."""
    try:
        with borrowed(descriptor) as sock:
            return _handle(descriptor, sock)
    except (OSError, ValueError):  # closed, no socket, or none at all
        return None


def address_of(handle: Handle) -> str:
    """Where the other end of a connection is, without its port."""
    ends = handle[1]
    assert isinstance(ends, tuple)
    return str(ends[1][0])


def taken_in(handle: Handle) -> int | None:
    """How many bytes libzmq has taken from the kernel over a connection since it began. None when it is gone,
    and wherever the system is not Linux, which alone is asked how many came.

    Never too many, but for one at the end of a connection: what comes in between two questions to the kernel
    counts as waiting there."""
    if sys.platform != "linux":
        return None
    import fcntl
    import termios

    try:
        with borrowed(handle[0]) as sock:
            if _handle(handle[0], sock) != handle:
                return None
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
            waiting = array.array("i", [0])
            fcntl.ioctl(sock, termios.FIONREAD, waiting)
    except (OSError, ValueError):
        return None
    if len(info) < _BYTES_RECEIVED.size:
        return None
    received: int = _BYTES_RECEIVED.unpack(info)[0]
    return received - waiting[0]


def arrived(sock: socket.socket) -> tuple[int, float] | None:
    """How many bytes over a connection the other machine's kernel has acknowledged since it began, and the
    least round trip that was seen, in seconds. None where that is not known: wherever it is not Linux."""
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _PROGRESS.size)
    except (OSError, ValueError):
        return None
    if len(info) < _PROGRESS.size:
        return None
    acknowledged, least_us = _PROGRESS.unpack(info)
    return acknowledged, (0 if least_us == _NEVER_SEEN else least_us) * 1e-6


def arrived_over(handle: Handle) -> tuple[int, float] | None:
    """The same of a connection of libzmq's; None too when it is gone."""
    try:
        with borrowed(handle[0]) as sock:
            return arrived(sock) if _handle(handle[0], sock) == handle else None
    except (OSError, ValueError):
        return None


def shut_down(handle: Handle) -> None:
    """Break a connection: a ROUTER has no call for it. libzmq then sees a reset. The two ends are compared,
    as the descriptor may belong to another connection by now."""
    if remote(handle[0]) == handle:
        with suppress(OSError), borrowed(handle[0]) as sock:
            sock.shutdown(socket.SHUT_RDWR)


def _handle(descriptor: int, sock: socket.socket) -> Handle | None:
    ends = sock.getsockname(), sock.getpeername()
    return (descriptor, ends) if all(isinstance(end, tuple) for end in ends) else None


@contextmanager
def borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A descriptor of libzmq's as a socket. It is not duplicated: there may be no other one left. Raises
    `OSError` or `ValueError` where it is none."""
    sock = socket.socket(fileno=descriptor)
    try:
        yield sock
    finally:
        sock.detach()
