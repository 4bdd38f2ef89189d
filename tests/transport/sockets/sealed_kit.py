"""Both ends of sealed connections over a pair of sockets, and records as bytes."""

from __future__ import annotations

import queue
import socket

from transport.limits import LIMITS, Limits
from transport.sealed.records import Kind, Record
from transport.sealed.seals import Opener, Sealer
from transport.sockets.bulk_buffers import Buffers
from transport.sockets.bulk_threads import Ended
from transport.sockets.sealed_connection import Frame, Opened, SealedConnection
from transport.sockets.upload_gate import UploadGate
from transport.sockets.wire import Outgoing

UP, DOWN = b"u" * 32, b"d" * 32
SESSIONS = ((1, 1), (2, 1))
_SOCKETS: list[socket.socket] = []


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, which `close_sockets` closes."""
    pair = socket.socketpair()
    _SOCKETS.extend(pair)
    return pair


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """The same over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    _SOCKETS.extend((near, far))
    return near, far


def close_sockets() -> None:
    """Close all that tests made."""
    while _SOCKETS:
        _SOCKETS.pop().close()


def opened_sealer(key: bytes) -> Sealer:
    sealer = Sealer(key)
    sealer.opening()
    return sealer


def opened_opener(key: bytes) -> Opener:
    opener = Opener(key)
    assert opener.is_opening(Sealer(key).opening())
    return opener


def connection_of(
    sock: socket.socket,
    *,
    is_ours: bool = False,
    limits: Limits = LIMITS,
    buffers: Buffers | None = None,
    gate: UploadGate | None = None,
) -> SealedConnection:
    sending, receiving = (UP, DOWN) if is_ours else (DOWN, UP)
    opened = Opened(b"p" * 32, 1, SESSIONS, is_ours, sock, opened_sealer(sending), opened_opener(receiving))
    return SealedConnection(opened, buffers or Buffers(1 << 24), limits, gate or UploadGate(None))


def both_ends(limits: Limits = LIMITS) -> tuple[SealedConnection, SealedConnection]:
    ours, theirs = socket_pair()
    return connection_of(ours, is_ours=True, limits=limits), connection_of(theirs, limits=limits)


def message(header: bytes, payload: bytes | None) -> Outgoing:
    return Outgoing(1, header, payload, "exchange", False)


class RawEnd:
    """The far end of a connection, as bytes."""

    def __init__(self) -> None:
        self.sock, self.near = socket_pair()
        self._sealer = opened_sealer(UP)

    def record(self, header: bytes, payload: bytes | None) -> bytes:
        """The next one."""
        record = Record(Kind.FRAME, len(header), None if payload is None else len(payload))
        sealed = bytearray(record.sealed_bytes)
        self._sealer.seal(record, header, payload, memoryview(sealed))
        return bytes(sealed)


class Told:
    """What threads tell."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Frame | Ended] = queue.SimpleQueue()
        self.put = self._queue.put

    def next(self) -> Frame | Ended:
        return self._queue.get(timeout=20)

    def frame(self) -> tuple[bytes, bytes | None]:
        """The next thing is a frame; it is taken out of its connection."""
        found = self.next()
        assert isinstance(found, Frame), found
        found.connection.took(found)
        return found.header, None if found.payload is None else bytes(found.payload)

    def is_empty(self) -> bool:
        return self._queue.empty()
