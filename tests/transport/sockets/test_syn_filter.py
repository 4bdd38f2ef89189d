"""The kernel's filter of new connections: it drops what it was told to, and looks at nothing else."""

from __future__ import annotations

import socket
import sys
from random import Random

import pytest

from transport.floods import MOST_ADDRESSES, OTHERS
from transport.sockets.syn_filter import let_in, program

SYN, SYN_ACK, ACK, FIN = 0x02, 0x12, 0x10, 0x01
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux filters what comes to a socket")


def lets_in(shares: dict[str, float], source: str, flags: int, draw: int) -> bool:
    """What the program says of a packet, by an interpreter of its own."""
    code, accumulator, at = program(shares), 0, 0
    words = {0xFFF0000C: int.from_bytes(socket.inet_aton(source), "big"), 0xFFFFF038: draw, 13: flags}
    while True:
        name, then, otherwise, value = code[at]
        at += 1
        if name in (0x30, 0x20):
            accumulator = words[value]
        elif name == 0x54:
            accumulator &= value
        elif name == 0x06:
            return value > 0
        else:
            holds = accumulator == value if name == 0x15 else accumulator >= value
            at += then if holds else otherwise


@pytest.mark.parametrize("flags", [SYN_ACK, ACK, FIN, ACK | FIN, ACK | 0x08, 0x04, 0x00])
def test_only_packets_that_begin_a_connection_are_dropped(flags: int) -> None:
    assert lets_in({"10.0.0.1": 0.0, OTHERS: 0.0}, "10.0.0.1", flags, 2**32 - 1)


def test_each_address_is_let_in_by_its_own_share() -> None:
    shares = {"10.0.0.1": 0.25, "10.0.0.2": 0.75, OTHERS: 0.5}
    draws = Random(1)
    for source, share in [("10.0.0.1", 0.25), ("10.0.0.2", 0.75), ("10.0.0.3", 0.5)]:
        found = sum(lets_in(shares, source, SYN, draws.getrandbits(32)) for _ in range(4000)) / 4000
        assert abs(found - share) < 0.03


def test_whoever_has_no_share_is_let_in_always() -> None:
    shares = {f"10.0.0.{each}": 1 / 64 for each in range(MOST_ADDRESSES)}
    assert all(lets_in(shares, "10.0.1.1", SYN, draw) for draw in (0, 2**31, 2**32 - 1))
    assert not lets_in(shares, "10.0.0.31", SYN, 2**31)


@linux
def test_a_listening_socket_lets_a_part_in_and_what_stands_goes_on() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        before = socket.create_connection(listening.getsockname())
        assert let_in(listening.fileno(), {"127.0.0.1": 1 / 4})
        taken = _dialled(listening, 200)
        assert 20 < len(taken) < 90
        accepted = [listening.accept()[0] for _ in range(1 + len(taken))]
        for here, there in zip([before, *taken], accepted, strict=True):
            there.sendall(bytes(100_000))  # what was let in is whole
            assert len(here.recv(100_000, socket.MSG_WAITALL)) == 100_000
        assert let_in(listening.fileno(), {})
        again = _dialled(listening, 20)
        assert len(again) == 20
        for each in (before, *taken, *accepted, *again):
            each.close()


@linux
def test_an_address_that_is_not_named_is_not_held_back() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        shares = {f"10.0.0.{each}": 1 / 64 for each in range(MOST_ADDRESSES)}
        assert let_in(listening.fileno(), {**shares, "127.0.0.2": 0.0})
        taken = _dialled(listening, 30)
        assert len(taken) == 30
        for each in taken:
            each.close()


def test_a_descriptor_that_is_no_socket_is_left_alone() -> None:
    assert not let_in(-1, {"127.0.0.1": 0.5})


def _dialled(listening: socket.socket, number: int) -> list[socket.socket]:
    """Of so many connections those that were let in at once."""
    taken = []
    for _ in range(number):
        sock = socket.socket()
        sock.settimeout(0.05)
        try:
            sock.connect(listening.getsockname())
        except TimeoutError:
            sock.close()
            continue
        sock.settimeout(10.0)
        taken.append(sock)
    return taken
