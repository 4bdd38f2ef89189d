"""A flood of connections is held back by the kernel, and whoever else dials comes in (X1)."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from tests.net.swarm_kit import Node, eventually, running
from transport.effects import Send
from transport.floods import FloodOverTrace, FloodTrace
from transport.limits import LIMITS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds floods back")


@contextmanager
def flood(node: Node, source: str) -> Iterator[None]:
    """Connections from an address that are begun as fast as it goes, and left at once."""
    where, over = ("127.0.0.1", int(node.address.rpartition(":")[2])), threading.Event()

    def run() -> None:
        while not over.is_set():
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((source, 0))
            with suppress(BlockingIOError):
                sock.connect(where)
            over.wait(0.0005)
            sock.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_flood_is_held_back_and_a_member_elsewhere_comes_in_meanwhile() -> None:
    host = Node(limits=replace(LIMITS, comings_per_second=40))
    member, late = Node(bind=None), Node(bind=None)
    for each in (member, late):
        host.admit(each.key)
    with running(host, member, late):
        member.dial(host)
        with flood(host, "127.0.0.2"):
            told = eventually(lambda: host.traced(FloodTrace))
            assert told[0].is_held_back
            assert told[0].whence in ("127.0.0.2", "of many addresses")
            late.dial(host)
            for each in (member, late):
                each.do(Send(host.key, 0, b"echo"))
            eventually(lambda: member.core.received and late.core.received)
        eventually(lambda: host.traced(FloodOverTrace))
        assert len(told) == len(host.traced(FloodTrace)) == 1
        assert member.core.down == late.core.down == []
