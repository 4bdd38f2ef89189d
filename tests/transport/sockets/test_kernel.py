"""What the kernel knows of a connection: its ends, and how much of what came was taken."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from transport.sockets.kernel import Handle, address_of, arrived, arrived_over, remote, shut_down, taken_in

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a TCP connection; we look at the second."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        dialled = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    accepted.settimeout(5)
    dialled.settimeout(5)
    with dialled, accepted:
        yield dialled, accepted


def handle_of(sock: socket.socket) -> Handle:
    found = remote(sock.fileno())
    assert found is not None
    return found


def test_a_connection_is_known_by_descriptor_and_ends(pair: Pair) -> None:
    dialled, accepted = pair
    ends = accepted.getsockname(), accepted.getpeername()
    assert handle_of(accepted) == (accepted.fileno(), ends)
    assert address_of(handle_of(accepted)) == "127.0.0.1"
    assert handle_of(accepted) != handle_of(dialled)


def test_what_is_no_connection_has_no_ends() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    assert remote(reading) is None
    os.close(reading)
    assert remote(reading) is None
    assert remote(-1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what came")
def test_what_was_taken_is_counted_and_what_waits_in_the_kernel_is_not(pair: Pair) -> None:
    dialled, accepted = pair
    handle = handle_of(accepted)
    dialled.sendall(bytes(1000))
    accepted.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)
    assert taken_in(handle) == 0
    assert len(accepted.recv(600)) == 600
    assert taken_in(handle) == 600
    assert len(accepted.recv(1000)) == 400
    assert taken_in(handle) == 1000


def test_of_another_connection_at_the_same_descriptor_nothing_is_told_or_broken(pair: Pair) -> None:
    dialled, accepted = pair
    descriptor, ends = handle_of(accepted)
    older = (descriptor, (ends, "another end"))
    assert taken_in(older) is None
    shut_down(older)
    dialled.sendall(b"x")
    assert accepted.recv(1) == b"x"


def test_a_connection_that_is_broken_ends_at_both_ends(pair: Pair) -> None:
    dialled, accepted = pair
    shut_down(handle_of(accepted))
    assert dialled.recv(1) == b""
    accepted.close()
    shut_down((0, "gone"))


def test_elsewhere_than_on_linux_nothing_is_told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = handle_of(pair[1])
    monkeypatch.setattr(sys, "platform", "darwin")
    assert taken_in(handle) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it")
def test_the_kernel_knows_how_much_the_other_machine_has(pair: Pair) -> None:
    dialled, accepted = pair
    handle = handle_of(dialled)
    dialled.sendall(bytes(10_000))
    while len(accepted.recv(20_000, socket.MSG_PEEK)) < 10_000:
        pass
    found = arrived(dialled)
    assert found is not None
    assert 10_000 <= found[0] <= 10_001
    assert 0.0 < found[1] < 1.0
    assert arrived_over(handle) == found
    dialled.close()
    assert arrived_over(handle) is None
    assert arrived(dialled) is None
