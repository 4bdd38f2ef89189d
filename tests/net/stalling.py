"""A line that stalls: it carries what two ends say, up to a number of bytes, and then keeps the connection.

libzmq sends a message once its last part is there. Over such a line the last part never comes."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

ALL = 1 << 60
_PIECE = 64 * 1024


@dataclass(eq=False)
class _Way:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    left: int
    """Bytes that it still carries."""


class Line:
    """Where clients connect instead; made by `line`."""

    def __init__(self, address: str, up: int, down: int, source: str, at: tuple[str, int]) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._up, self._down, self._source = up, down, source
        self._listening = socket.create_server(at)
        self.address = f"tcp://{at[0]}:{self._listening.getsockname()[1]}"
        self.num_broken = 0
        """Connections that one of the two ends broke."""
        self._ways: list[_Way] = []
        self._ends = self._cuts = self._freezes = False
        self._frozen: list[_Way] = []

    def carry(self, num_bytes: int) -> None:
        """Let so many more bytes through on every connection, up."""
        for way in self._ways[::2]:
            way.left += num_bytes

    def cut(self) -> None:
        """Break every connection, at the thread's next turn; new ones may come."""
        self._cuts = True

    def freeze(self) -> None:
        """Carry nothing more over the connections that stand, at the thread's next turn, not even their
        ends: as a router does that has forgotten them. New ones may come."""
        self._freezes = True

    def stop(self) -> None:
        """End it all, at the thread's next turn."""
        self._ends = True

    def run(self) -> None:
        """Carry bytes until `stop`."""
        while not self._ends:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listening, selectors.EVENT_READ, None)
                for way in self._ways:
                    if way.left:
                        selector.register(way.source, selectors.EVENT_READ, way)
                ready = selector.select(0.01)
            for key, _ in ready:
                if key.data is None:
                    self._accept()
                elif key.data in self._ways:
                    self._forward(key.data)
            if self._cuts:
                self._cuts = False
                for way in list(self._ways):
                    self._break(way)
            if self._freezes:
                self._freezes = False
                self._frozen, self._ways = self._frozen + self._ways, []
            for way in [each for each in self._ways if not each.left and _is_over(each.source)]:
                self._break(way)
        for way in list(self._ways):
            self._break(way)
        for way in self._frozen:
            way.source.close()
        self._listening.close()

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        server = socket.create_connection(self._target, source_address=(self._source, 0))
        for each in (client, server):
            each.settimeout(5.0)
        self._ways += [_Way(client, server, self._up), _Way(server, client, self._down)]

    def _forward(self, way: _Way) -> None:
        try:
            found = way.source.recv(min(way.left, _PIECE))
            way.target.sendall(found)
        except OSError:
            found = b""
        way.left -= len(found)
        if not found:
            self._break(way)

    def _break(self, way: _Way) -> None:
        if way not in self._ways:
            return
        index = self._ways.index(way) & ~1
        for each in self._ways[index : index + 2]:
            each.source.close()
        del self._ways[index : index + 2]
        self.num_broken += 1


def _is_over(sock: socket.socket) -> bool:
    """Whether the other end is gone, though nothing is read any more."""
    with suppress(BlockingIOError):
        try:
            return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except ConnectionError:
            return True
    return False


@contextmanager
def line(
    address: str,
    up: int = ALL,
    down: int = ALL,
    source: str = "127.0.0.1",
    at: tuple[str, int] = ("127.0.0.1", 0),
) -> Iterator[Line]:
    """A line from ``source`` to an address that carries ``up`` bytes of each client, ``down`` bytes to it;
    clients connect ``at`` another address."""
    made = Line(address, up, down, source, at)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join(20)
        assert not thread.is_alive()
