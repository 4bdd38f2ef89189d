"""The bulk port and the bulk connections that are not up yet, on a thread of their own.

Whoever connects to the port is a stranger until it has said 32 bytes that were offered to it over the control
connection: so long it holds one descriptor, and for two seconds at most. How many there may be is said by
`transport.sealed.strangers`; beyond that a connection is closed when it is taken, and floods are held back
by the kernel (`flood_gate`). Nothing of it touches the driver's thread or a connection that is up: what
opened is told there. Connections that we dial wait here too, for the answer. Keeps X1 and X2.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from transport.effects import Trace
from transport.errors import DialFailed, TransportError
from transport.limits import Limits
from transport.sealed.headers import Sessions
from transport.sealed.keys import ID_BYTES, LaneEnds
from transport.sealed.messages import LaneAsk, LaneOffer
from transport.sealed.opening import OPENING_BYTES, Offers
from transport.sealed.records import TAG_BYTES
from transport.sealed.seals import Opener, Sealer
from transport.sealed.strangers import Strangers
from transport.sockets.flood_gate import FloodGate
from transport.sockets.sealed_connection import Opened

_ACCEPTS_PER_ROUND = 64
_BACKLOG = 128
_REST_S = 0.1
"""Where the system has no room for one more connection nobody is taken for so long."""
_GONE = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR, errno.ENETDOWN, errno.ENETUNREACH}
_GONE |= {errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.EHOSTDOWN}
"""What taking a connection says that went again, or was forbidden: others may wait behind it."""
NO_ROOM = "the system has no room for one more"
DIAL_S = 5.0
"""After this long a connection is given up that did not come up."""


@dataclass(frozen=True, slots=True)
class Dial:
    """A connection that is to be made, and what is said over it first."""

    peer: bytes
    lane: int
    sessions: Sessions
    target: tuple[str, int]
    opening: bytes = field(repr=False)
    sealer: Sealer = field(repr=False)
    opener: Opener = field(repr=False)


@dataclass(frozen=True, slots=True)
class DialRefused:
    """It did not come up."""

    dial: Dial
    reason: str
    was_connected: bool
    """Somebody took the connection, and not the opening."""


Tell = Callable[[Opened | DialRefused | Trace], None]


@dataclass(slots=True, eq=False)
class _Coming:
    """A connection that is not up yet: a stranger's, or one that we dial."""

    sock: socket.socket
    wanted: int
    """Bytes that the other end says first."""
    dial: Dial | None = None
    until: float = 0.0
    is_up: bool = False
    got: bytes = b""

    def read(self) -> bool:
        """Whether all came. Raises `OSError`."""
        with suppress(BlockingIOError):
            more = self.sock.recv(self.wanted - len(self.got))
            if not more:
                raise ConnectionResetError("the other end hung up")
            self.got += more
        return len(self.got) == self.wanted


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `OSError`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def listen_beside(host: str, control_port: int, port: int | None) -> socket.socket:
    """The bulk port: ``port``, or by default the one after the control port, or any if that is taken. Raises
    `TransportError` for a port that was asked for and is taken."""
    if port is None:
        with suppress(OSError, OverflowError):
            return listen(host, control_port + 1)
    try:
        return listen(host, port or 0)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise TransportError(
            f"cannot listen for bulk on {host}:{port or 0}: {why}; choose another port"
        ) from None


class BulkDoor:
    """Its thread runs from `start` to `close`. ``tell`` is called on it."""

    def __init__(
        self, listener: socket.socket | None, clock: Callable[[], float], limits: Limits, tell: Tell
    ) -> None:
        self.port = 0 if listener is None else int(listener.getsockname()[1])
        self.num_dropped = 0
        """Connections that were closed when they were taken."""
        self._listener, self._clock, self._limits, self._tell = listener, clock, limits, tell
        self._lock = threading.Lock()
        self._offers = Offers(limits)
        """Of both threads, under the lock."""
        self._strangers = Strangers(limits)
        self._gate: FloodGate | None = None
        self._rests_until: float | None = None
        self._comings: set[_Coming] = set()
        self._dials: deque[Dial | None] = deque()
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ)
            self._gate = FloodGate(listener.fileno(), limits.comings_per_second, tell)
        self._thread = threading.Thread(target=self._run, name="diloco-bulk-door", daemon=True)

    # -- the driver's thread ------------------------------------------------------------------

    def start(self) -> None:
        """Let them come."""
        self._thread.start()

    def offer(self, now: float, ends: LaneEnds, asked: LaneAsk) -> LaneOffer:
        """Offer a lane at this port."""
        with self._lock:
            return self._offers.offer(now, ends, asked, self.port)

    def forget(self, peer: bytes) -> None:
        """What was offered to a peer opens nothing any more."""
        with self._lock:
            self._offers.forget(peer)

    def dial(self, dial: Dial) -> None:
        """Make a connection, and tell what became of it."""
        self._ask(dial)

    def close(self) -> None:
        """Close the port, and whatever is not up."""
        if self._thread.ident is not None:
            self._ask(None)
            self._thread.join()
        self.forked()

    def forked(self) -> None:
        """Also in a forked child, where its thread is not: close every socket of it."""
        self._selector.close()
        for sock in (self._woken, self._waker, *(each.sock for each in self._comings)):
            sock.close()
        if self._listener is not None:
            self._listener.close()

    def _ask(self, dial: Dial | None) -> None:
        self._dials.append(dial)
        with suppress(OSError):  # a full pipe already holds a wake-up
            self._waker.send(b"x")

    # -- its own ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            ready = self._selector.select(self._wait_s())
            now = self._clock()
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept(now)
                elif key.fileobj is not self._woken:
                    self._serve(now, key.data)
            with suppress(BlockingIOError):
                self._woken.recv(4096)
            while self._dials:
                dial = self._dials.popleft()
                if dial is None:
                    return
                self._dial(now, dial)
            self._give_up(now)

    def _wait_s(self) -> float | None:
        dues = [each.until for each in self._comings if each.dial is not None]
        gate_due = None if self._gate is None else self._gate.due
        dues += [due for due in (self._strangers.due(), gate_due, self._rests_until) if due is not None]
        return max(0.0, min(dues) - self._clock()) if dues else None

    def _accept(self, now: float) -> None:
        assert self._listener is not None
        assert self._gate is not None
        for _ in range(_ACCEPTS_PER_ROUND):
            try:
                sock, (address, _) = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _GONE:
                    continue
                self._rest(now)  # no descriptor or no memory is left: that takes a while
                return
            self._gate.came(now, address)
            coming = _Coming(sock, OPENING_BYTES)
            if not self._strangers.came(now, coming, address):
                self.num_dropped += 1
                sock.close()
                continue
            sock.setblocking(False)
            self._comings.add(coming)
            if not self._watches(coming, selectors.EVENT_READ):
                self.num_dropped += 1
                self._drop(coming, NO_ROOM)
                self._rest(now)
                return

    def _rest(self, now: float) -> None:
        """Take nobody for a while."""
        assert self._listener is not None
        if self._listener in self._selector.get_map():
            self._selector.unregister(self._listener)
        self._rests_until = now + _REST_S

    def _watches(self, coming: _Coming, events: int) -> bool:
        """Wait for a connection to be ready; False if the system takes no more to wait for."""
        try:
            self._selector.register(coming.sock, events, coming)
        except OSError:
            return False
        return True

    def _dial(self, now: float, dial: Dial) -> None:
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            self._tell(DialRefused(dial, f"{type(error).__name__}: {error}", was_connected=False))
            return
        sock.setblocking(False)
        coming = _Coming(sock, TAG_BYTES, dial, now + DIAL_S)
        self._comings.add(coming)
        failed = sock.connect_ex(dial.target)
        if failed not in (0, errno.EINPROGRESS):
            self._drop(coming, os.strerror(failed))
            return
        if not self._watches(coming, selectors.EVENT_WRITE):
            self._drop(coming, NO_ROOM)

    def _serve(self, now: float, coming: _Coming) -> None:
        try:
            if self._selector.get_key(coming.sock).events == selectors.EVENT_WRITE:
                self._came_up(coming)
            elif coming.read():
                self._open(now, coming)
        except OSError as error:
            self._drop(coming, os.strerror(error.errno) if error.errno else str(error))
        except DialFailed as error:
            self._drop(coming, str(error))

    def _came_up(self, coming: _Coming) -> None:
        assert coming.dial is not None
        failed = coming.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        coming.is_up = True
        _prepare(coming.sock)
        if coming.sock.send(coming.dial.opening) != len(coming.dial.opening):
            raise DialFailed("the first bytes do not leave")
        self._selector.modify(coming.sock, selectors.EVENT_READ, coming)

    def _open(self, now: float, coming: _Coming) -> None:
        dial = coming.dial
        if dial is not None:
            if not dial.opener.is_opening(coming.got):
                raise DialFailed("something else answers there")
            keys, name = (dial.sealer, dial.opener), dial.opening[:ID_BYTES]
            opened = Opened(dial.peer, dial.lane, dial.sessions, True, coming.sock, *keys, name)
        else:
            with self._lock:
                found = self._offers.take(now, coming.got)
            if found is None:
                raise DialFailed("that was never offered")
            _prepare(coming.sock)
            coming.sock.send(found.sealer.opening())
            keys, name = (found.sealer, found.opener), coming.got[:ID_BYTES]
            opened = Opened(found.peer, found.lane, found.sessions, False, coming.sock, *keys, name)
        self._forget(coming)
        self._tell(opened)

    def _give_up(self, now: float) -> None:
        for coming in self._strangers.late(now):
            assert isinstance(coming, _Coming)
            self._drop(coming, "it said nothing")
        for coming in [each for each in self._comings if each.dial is not None and each.until <= now]:
            self._drop(coming, "nobody answers there")
        if self._gate is not None:
            self._gate.serve_due(now)
        if self._rests_until is not None and self._rests_until <= now:
            assert self._listener is not None
            self._rests_until = None
            try:
                self._selector.register(self._listener, selectors.EVENT_READ)
            except OSError:
                self._rest(now)

    def _drop(self, coming: _Coming, reason: str) -> None:
        self._forget(coming)
        coming.sock.close()
        if coming.dial is not None:
            self._tell(DialRefused(coming.dial, reason, coming.is_up))

    def _forget(self, coming: _Coming) -> None:
        self._comings.discard(coming)
        if coming.sock in self._selector.get_map():
            self._selector.unregister(coming.sock)
        if coming.dial is None:
            self._strangers.done(coming)


def _prepare(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # As for libzmq's: a backstop for dead lines, after 15 s.
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2)):
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
