"""A TCP proxy that keeps what goes through it, as whoever sits on the line can, and sends it again.

Threads and plain sockets: it knows no message. Nothing outlives `recording`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LOOPBACK = "127.0.0.1"


class Tape:
    """One connection that went through the proxy."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.there = bytearray()
        """All bytes from whoever dialled."""
        self.back = bytearray()
        """All bytes of the answer."""


class Proxy:
    """Carries connections on to ``target``, and keeps a tape of each."""

    def __init__(self) -> None:
        self.target: tuple[str, int] = (LOOPBACK, 0)
        self.tapes: list[Tape] = []
        self._listener = socket.create_server((LOOPBACK, 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        """Where to dial."""
        return f"tcp://{LOOPBACK}:{self._listener.getsockname()[1]}"

    def aim_at(self, address: str) -> None:
        """Carry connections on to an address of zmq's."""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self.target = (host, int(port))

    def close(self) -> None:
        """End all connections and threads."""
        for sock in (self._listener, *(each for tape in self.tapes for each in (tape.near, tape.far))):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5.0)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self.target)
            except OSError:
                return
            tape = Tape(near, far)
            self.tapes.append(tape)
            for source, target, kept in ((near, far, tape.there), (far, near, tape.back)):
                thread = threading.Thread(target=_carry, args=(source, target, kept), daemon=True)
                self._threads.append(thread)
                thread.start()


def _carry(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            kept += piece
            target.sendall(piece)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def recording() -> Iterator[Proxy]:
    """A proxy that is to be aimed at somebody."""
    proxy = Proxy()
    try:
        yield proxy
    finally:
        proxy.close()


def send_again(tape: Tape, address: str) -> bytes:
    """Say in a fresh connection what somebody said in another one, each piece of the handshake after the
    answer to the one before; the answers. Whoever answers no more has hung up, or waits for something."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    answers = bytearray()
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(0.2)
        for piece in pieces_of(tape):
            with suppress(OSError):
                sock.sendall(piece)
            with suppress(OSError):  # also where nothing comes
                answers += sock.recv(1 << 16)
        with suppress(OSError):  # to close with an answer unread would be a reset, which loses what was said
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(10.0)
            while piece := sock.recv(1 << 16):
                answers += piece
    return bytes(answers)


def pieces_of(tape: Tape) -> list[bytes]:
    """What was said before each answer of a handshake: the greeting of 64 bytes, HELLO, and all the rest."""
    greeting, hello = 64, 64 + 2 + 200
    said = bytes(tape.there)
    return [said[:greeting], said[greeting:hello], said[hello:]]
