"""A reader of a connection is woken when there is as much as it wants, or a step of it, or the end."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from transport.sockets.arrivals import STEP_BYTES, Arrivals

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems wake it for whatever comes")


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of one over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            yield near, far


def is_readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


@ONLY_LINUX
def test_it_is_not_woken_before_all_that_it_wants_has_come() -> None:
    with connection() as (near, far):
        arrivals, room = Arrivals(near), memoryview(bytearray(1000))
        with pytest.raises(BlockingIOError):
            arrivals.read(room)
        far.sendall(bytes(999))
        assert not is_readable(near)
        far.sendall(bytes(1))
        arrivals.wait()
        assert arrivals.read(room) == 1000


@ONLY_LINUX
def test_what_came_counts_no_more_for_what_is_wanted_next() -> None:
    with connection() as (near, far):
        arrivals, room = Arrivals(near), memoryview(bytearray(1000))
        far.sendall(bytes(600))
        select.select([near], [], [])
        assert arrivals.read(room) == 600
        with pytest.raises(BlockingIOError):
            arrivals.read(room[600:])
        far.sendall(bytes(399))
        assert not is_readable(near)
        far.sendall(bytes(1))
        arrivals.wait()
        assert arrivals.read(room[600:]) == 400


def test_whoever_wants_more_than_a_step_is_woken_for_one() -> None:
    with connection() as (near, far):
        arrivals, room = Arrivals(near), memoryview(bytearray(4 * STEP_BYTES))
        with pytest.raises(BlockingIOError):
            arrivals.read(room)
        far.sendall(bytes(STEP_BYTES))
        arrivals.wait()
        assert arrivals.read(room) > 0


def test_the_end_is_seen_whatever_was_waited_for() -> None:
    with connection() as (near, far):
        arrivals, room = Arrivals(near), memoryview(bytearray(1000))
        with pytest.raises(BlockingIOError):
            arrivals.read(room)
        far.sendall(b"x")
        far.shutdown(socket.SHUT_WR)
        arrivals.wait()
        assert arrivals.read(room) == 1
        assert arrivals.read(room) == 0


def test_the_end_that_another_thread_brings_about_is_seen_too() -> None:
    with connection() as (near, _):
        arrivals = Arrivals(near)
        with pytest.raises(BlockingIOError):
            arrivals.read(memoryview(bytearray(1000)))
        near.shutdown(socket.SHUT_RDWR)
        arrivals.wait()
        assert arrivals.read(memoryview(bytearray(1))) == 0
