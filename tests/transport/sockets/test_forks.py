"""What a forked child closes: connections by their ends, and nothing that is the program's own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing

from transport.sockets.forks import Ends, close_in_children, keep_in_children


class Owner:
    """Has the connections with these ends."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.was_forked = False

    def ends(self) -> Ends:
        return self._ends

    def forked(self) -> None:
        self.was_forked = True


def in_child(ask: Callable[[], list[bool]]) -> list[bool]:
    """What a forked child finds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, bytes(ask()))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writing)
    found = os.read(reading, 100)
    os.close(reading)
    return [bool(each) for each in found]


def is_open(sock: socket.socket) -> bool:
    try:
        os.fstat(sock.fileno())
    except OSError:
        return False
    return True


def listener(until_end: ExitStack) -> tuple[socket.socket, tuple[str, int]]:
    sock = until_end.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    return sock, sock.getsockname()


def test_a_child_closes_what_listens_what_was_accepted_and_what_was_dialled_and_nothing_else() -> None:
    with ExitStack() as until_end:
        ours, our_address = listener(until_end)
        other, other_address = listener(until_end)
        theirs, their_address = listener(until_end)
        to_us = until_end.enter_context(closing(socket.create_connection(our_address)))
        accepted = until_end.enter_context(closing(ours.accept()[0]))
        dialled = until_end.enter_context(closing(socket.create_connection(other_address)))
        own = until_end.enter_context(closing(socket.create_connection(their_address)))
        datagrams = until_end.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        owner = Owner(Ends(our_address, frozenset({other_address})))
        close_in_children(owner)
        held = [ours, accepted, dialled, other, theirs, own, to_us, datagrams]
        found = in_child(lambda: [owner.was_forked, *map(is_open, held)])
        assert found == [True, False, False, False, True, True, True, True, True]
        assert all(map(is_open, held)), "the parent's are as they were"
        assert not owner.was_forked
        keep_in_children(owner)
        assert in_child(lambda: [owner.was_forked, *map(is_open, held)]) == [False] + [True] * 8


def test_who_listens_at_every_address_is_told_by_the_port() -> None:
    with ExitStack() as until_end:
        ours, (_, port) = listener(until_end)
        other, _ = listener(until_end)
        owner = Owner(Ends(("0.0.0.0", port), frozenset()))
        close_in_children(owner)
        assert in_child(lambda: [is_open(ours), is_open(other)]) == [False, True]
        keep_in_children(owner)
