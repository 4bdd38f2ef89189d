"""libzmq with every default that matters overridden: the only file with zmq.

`Listener` listens: one ROUTER that admits the keys which the ZAP handler beside it admits, and nobody when
that handler is gone. `Dialer` dials: one DEALER for one connection. `knock` asks a host one thing with an
invite's key. Who sent a message is the ZAP User-Id, or on a `Dialer` the server's key; routing ids are
trusted for nothing. The loop and the core are `transport.sockets.driver`'s. Keeps R4, X1, X2 and X4.

libzmq keeps a message until its last part came, and bounds neither the number of parts nor their sum: what
it holds of a connection is bounded by `transport.sockets.unread`, and parts beyond the first few are dropped
here.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import zmq
from zmq.utils.monitor import recv_monitor_message

from transport.errors import BadMessage, DialFailed, KnockRefused, KnockTimeout, TransportError
from transport.keys import KeyPair
from transport.limits import LIMITS, Limits
from transport.redial import SILENCE_S
from transport.sockets import zap
from transport.sockets.kernel import Handle, remote, taken_in
from transport.sockets.names import LOOKUP_S, numeric_address
from transport.sockets.unread import LOOK_S, TOO_MUCH, wire_bytes
from transport.sockets.wire import Outgoing, frame_of, parse

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

_MIN_LIBZMQ = (4, 3, 5)
_ZERO_COPY_BYTES = 64 * 1024
FRAMES_PER_ROUND = 64
"""Messages that are read from one socket before others have their turn."""
_KEPT_PARTS = 3
_DROPPED_AT_ONCE = 1024
"""Parts of a message with too many that are dropped before others have their turn."""
EARLY_RANK = 1
"""Sources up to this rank are served also while the core gets nothing."""
REFUSED = "the peer does not admit our key"
OTHER_KEY = "the handshake was broken off: another key answers there"
SILENT = "the handshake was not answered"
HELD = "the host cannot write its journal (its disk is full, say), and decides nothing until it can"
NOBODY = "nobody answers there"
_FAILURES: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: REFUSED,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: OTHER_KEY,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: that is no diloco peer",
    zmq.EVENT_DISCONNECTED: "the connection broke",
    zmq.EVENT_CLOSED: NOBODY,
}
_WATCHED = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | sum(_FAILURES)
_MONITOR_EVENT = struct.Struct("=Hi")
_ACCEPTED = "inproc://accepted"


def check_libzmq(version: tuple[int, ...] | None = None, has_curve: bool | None = None) -> None:
    """Raises `TransportError` unless libzmq is new enough and encrypts."""
    version = version or zmq.zmq_version_info()
    if version < _MIN_LIBZMQ:
        found, wanted = (".".join(map(str, each)) for each in (version, _MIN_LIBZMQ))
        raise TransportError(f"libzmq {found} is too old, {wanted} is needed; update pyzmq")
    if not (zmq.has("curve") if has_curve is None else has_curve):
        raise TransportError("libzmq was built without CURVE encryption; install the pyzmq wheel")


def new_context(io_threads: int = 2) -> Context:
    """The owner of sockets; `term` it at the end."""
    context: Context = zmq.Context(io_threads)
    context.set(zmq.MAX_SOCKETS, 4096)
    # libzmq starts its threads with the first socket, and aborts the process if they get no descriptors.
    context.socket(zmq.PAIR).close(0)
    return context


@dataclass(slots=True)
class ReceivedMessage:
    """One message as it came: of one with too many parts, only the first few."""

    parts: list[memoryview]
    route: bytes
    """The id of the connection in a `Listener`; it may be the sender's choice."""
    sender: bytes
    """The authenticated key, in a `Listener`."""
    descriptor: int

    @property
    def wire_bytes(self) -> int:
        """What its parts took on the wire."""
        return sum(wire_bytes(part.nbytes) for part in self.parts)


class Reader:
    """The messages of one socket, in order. Of one with too many parts only the first few are kept, and the
    rest are dropped some at a time."""

    def __init__(self, sock: Socket) -> None:
        self.is_drained = False
        """Whether nothing was left when it was read last."""
        self._sock = sock
        self._is_dropping = False

    def read(self) -> list[zmq.Frame] | None:
        """The next message; None when there is none, or when there is more to drop first."""
        self.is_drained = False
        if self._is_dropping:
            self._drop()
            if self._is_dropping:
                return None
        try:
            part = self._sock.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self.is_drained = True
            return None
        parts = [part]
        while part.more and len(parts) < _KEPT_PARTS:
            part = self._sock.recv(copy=False)
            parts.append(part)
        self._is_dropping = part.more
        return parts

    def _drop(self) -> None:
        for _ in range(_DROPPED_AT_ONCE):
            if not self._sock.recv(copy=False).more:
                self._is_dropping = False
                return


class Poll:
    """What to wait for, and what to do then; sources of a lower rank are served first."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._early = zmq.Poller()
        self._sources: dict[Any, tuple[int, Callable[[], object]]] = {}

    def watch(self, source: Socket | int, rank: int, serve: Callable[[], object]) -> None:
        """Serve a source whenever it is readable."""
        self._poller.register(source, zmq.POLLIN)
        if rank <= EARLY_RANK:
            self._early.register(source, zmq.POLLIN)
        self._sources[source] = (rank, serve)

    def unwatch(self, source: Socket | int) -> None:
        """Forget a source."""
        self._poller.unregister(source)
        if self._sources.pop(source)[0] <= EARLY_RANK:
            self._early.unregister(source)

    def want_room(self, source: Socket, wanted: bool) -> None:
        """Serve a source also when it can take more."""
        self._poller.modify(source, zmq.POLLIN | zmq.POLLOUT if wanted else zmq.POLLIN)

    def wait(self, wait_s: float, *, early_only: bool = False) -> None:
        """Wait for at most ``wait_s`` seconds, and serve what is ready, or only what is of an early rank."""
        poller = self._early if early_only else self._poller
        ready = [self._sources[source] for source, _ in poller.poll(int(wait_s * 1000 + 0.999))]
        for _, serve in sorted(ready, key=lambda each: each[0]):
            serve()


class Listener:
    """Where others connect. Raises `TransportError` when the address cannot be taken."""

    def __init__(self, context: Context, keys: KeyPair, bind: str, limits: Limits) -> None:
        self.asking = context.socket(zmq.REP)
        self.socket = _router(context, keys, limits)
        self.asking.linger = 0
        self.socket.monitor(_ACCEPTED, zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self.monitor = context.socket(zmq.PAIR)
        self.monitor.setsockopt(zmq.RCVHWM, 0)  # libzmq's own thread would wait where this is full
        self.monitor.connect(_ACCEPTED)
        try:
            # The guard stands before the door opens; a door without one refuses everyone.
            self.asking.bind(zap.ENDPOINT)
            self.socket.bind(bind)
        except zmq.ZMQError as error:
            self.close(0.0)
            why = os.strerror(error.errno or 0)
            raise TransportError(f"cannot listen on {bind}: {why}; choose another address or port") from None
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.reader = Reader(self.socket)
        number, self.descriptor = _MONITOR_EVENT.unpack(self.monitor.recv())
        """The listening socket, which stays libzmq's."""
        self.monitor.recv()
        assert number == zmq.EVENT_LISTENING, "that is said before anybody can come"

    def answer(self, admits: Callable[[bytes], str | None], max_requests: int) -> Iterator[zap.Verdict]:
        """Answer up to ``max_requests`` handshakes that wait."""
        for _ in range(max_requests):
            try:
                request = self.asking.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            verdict = zap.answer(request, admits)
            self.asking.send_multipart(verdict.reply)
            yield verdict

    def comings(self, max_events: int) -> Iterator[tuple[bool, int]]:
        """Up to ``max_events`` connections that came (true) or went, by descriptor, in order."""
        for _ in range(max_events):
            try:
                event = self.monitor.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.monitor.recv()  # the endpoint, which is ours
            number, value = _MONITOR_EVENT.unpack(event)
            yield number == zmq.EVENT_ACCEPTED, value

    def read(self) -> ReceivedMessage | None:
        """The next message, without waiting."""
        frames = self.reader.read()
        if frames is None or len(frames) < 2:
            return None if frames is None else ReceivedMessage([], frames[0].bytes, b"", -1)
        sender = bytes.fromhex(str(frames[1].get("User-Id")))
        parts = [frame.buffer for frame in frames[1:]]
        return ReceivedMessage(parts, frames[0].bytes, sender, int(frames[1].get(zmq.SRCFD)))

    def send(self, message: Outgoing, route: bytes) -> Literal["sent", "full", "gone"]:
        """Hand a message to the connection with this id."""
        try:
            return "sent" if _transmit(self.socket, message, route) else "full"
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return "gone"

    def close(self, linger_s: float) -> None:
        """Stop listening; what was handed over has ``linger_s`` seconds to leave."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(int(linger_s * 1000))
        self.asking.close(0)


class Dialer:
    """One attempt at one connection to a peer that we dial; it never comes back by itself.

    Raises `DialFailed` when no socket can be made, as when strangers hold all descriptors, or when there is
    no such address."""

    def __init__(self, context: Context, keys: KeyPair, server: bytes, address: str, limits: Limits) -> None:
        try:
            self.socket = context.socket(zmq.DEALER)
        except zmq.ZMQError as error:
            raise _dial_failed("no socket can be made", error) from None
        _harden_dealer(self.socket, keys, server, limits)
        try:
            self.monitor = self.socket.get_monitor_socket(_WATCHED)
        except zmq.ZMQError as error:
            self.socket.disable_monitor()
            self.socket.close(0)
            raise _dial_failed("no socket can be made", error) from None
        self.reader = Reader(self.socket)
        self.handle: Handle | None = None
        """Its connection, once there is one."""
        self.num_read = 0
        """Bytes of messages that were read over it, as on the wire."""
        self.num_sent = 0
        """Bytes of messages that were handed over, as on the wire."""
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close(0.0)
            raise _dial_failed("the address does not work", error) from None

    def events(self) -> Iterator[str]:
        """What happened to the connection: "" when it came up, else why it failed or broke."""
        while not self.monitor.closed and self.monitor.poll(0):
            message = recv_monitor_message(self.monitor)
            event = message["event"]
            if event == zmq.EVENT_CONNECTED:
                self.handle = remote(int(message["value"]))
                continue
            if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and message["value"] == errno.EAGAIN:
                yield SILENT  # a process that stands still, whose system takes connections
                continue
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and message["value"] == zap.HELD:
                yield HELD
                continue
            up = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            yield "" if up else _FAILURES.get(event, "the connection broke")

    def read(self) -> list[memoryview] | None:
        """The parts of the next message, without waiting."""
        frames = None if self.socket.closed else self.reader.read()
        if frames is None:
            return None
        parts = [frame.buffer for frame in frames]
        self.num_read += sum(wire_bytes(part.nbytes) for part in parts)
        return parts

    def num_unread(self) -> int:
        """Bytes that libzmq holds of what came over it, as far as that is known."""
        taken = None if self.handle is None else taken_in(self.handle)
        return 0 if taken is None else taken - self.num_read

    def send(self, message: Outgoing) -> bool:
        """Hand over a message; False when there is no room."""
        is_sent = _transmit(self.socket, message)
        if is_sent:
            self.num_sent += wire_bytes(message.size_bytes)
        return is_sent

    def close(self, linger_s: float) -> None:
        """End the connection; what was handed over has ``linger_s`` seconds to leave."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.monitor.close(0)
            self.socket.close(int(linger_s * 1000))


def _dial_failed(what: str, error: zmq.ZMQError) -> DialFailed:
    return DialFailed(f"{what}: {os.strerror(error.errno or 0)}")


def _harden(sock: Socket, limits: Limits) -> None:
    options = {
        zmq.LINGER: 0,
        zmq.SNDHWM: 8,
        zmq.RCVHWM: 8,
        # Per part and as encrypted; `parse` holds the exact bounds.
        zmq.MAXMSGSIZE: max(limits.payload_bytes, limits.header_bytes) + 256,
        zmq.HANDSHAKE_IVL: round(1000 * SILENCE_S),
        zmq.CONNECT_TIMEOUT: round(1000 * SILENCE_S),
        # A backstop for dead lines, after 15 s: liveness is judged by the core. It is the kernel's. libzmq's
        # own heartbeats end the process (assertion "!_io_error") when one is due on a connection that broke
        # while its messages were not read.
        zmq.HEARTBEAT_IVL: 0,
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 5,
        zmq.TCP_KEEPALIVE_INTVL: 5,
        zmq.TCP_KEEPALIVE_CNT: 2,
        zmq.IPV6: 0,
    }
    for option, value in options.items():
        sock.setsockopt(option, value)


def _router(context: Context, keys: KeyPair, limits: Limits) -> Socket:
    """A ROUTER that refuses every key which no ZAP handler admits."""
    sock = context.socket(zmq.ROUTER)
    _harden(sock, limits)
    sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
    sock.setsockopt(zmq.ROUTER_HANDOVER, 0)
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    sock.setsockopt(zmq.ZAP_DOMAIN, zap.DOMAIN)
    sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return sock


def _harden_dealer(sock: Socket, keys: KeyPair, server: bytes, limits: Limits) -> None:
    """A DEALER is for one connection: what it was given never goes over a later one."""
    _harden(sock, limits)
    sock.setsockopt(zmq.IMMEDIATE, 1)
    sock.setsockopt(zmq.RECONNECT_IVL, -1)
    sock.setsockopt(zmq.CURVE_SERVERKEY, server)
    sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def _transmit(sock: Socket, message: Outgoing, route: bytes | None = None) -> bool:
    """Hand one message to the socket; False when it is full."""
    try:
        if route is not None:
            sock.send(route, zmq.NOBLOCK | zmq.SNDMORE)  # it does not go over the wire
        elif message.size_bytes > _ZERO_COPY_BYTES and not int(sock.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            return False  # before it is copied
        frame = frame_of(message.lane, message.header, message.payload)
        sock.send(frame, zmq.NOBLOCK, copy=len(frame) <= _ZERO_COPY_BYTES)
    except zmq.Again:
        return False
    return True


def knock(
    address: str,
    server_key: bytes,
    invite: KeyPair,
    header: bytes,
    timeout_s: float,
    limits: Limits = LIMITS,
    *,
    waits_for_disk: bool = True,
) -> tuple[bytes, bytes]:
    """Ask a host one thing with an invite's key; blocks. Returns the reply's header and payload.

    Raises `KnockRefused` when the invite opens nothing there, `KnockTimeout` when nobody answers (at once if
    the host cannot write its journal, unless the caller ``waits_for_disk``), and `DialFailed` for an address
    that leads nowhere.
    """
    check_libzmq()
    until = time.monotonic() + timeout_s
    named, address = address, numeric_address(address, min(timeout_s, LOOKUP_S))
    reason = "nobody answers there"
    context = new_context(1)
    try:
        while (left_s := until - time.monotonic()) > 0:
            reply, failure = _knock_once(context, address, server_key, invite, header, left_s, limits)
            if reply is not None:
                return reply
            reason = failure or reason
            if reason == HELD and not waits_for_disk:
                raise KnockTimeout(f"no answer from {named}: {HELD}")
            time.sleep(max(0.0, min(0.2, until - time.monotonic())))
    finally:
        context.term()
    raise KnockTimeout(f"no reply from {named} within {timeout_s:g} s: {reason}")


def _knock_once(
    context: Context,
    address: str,
    server_key: bytes,
    invite: KeyPair,
    header: bytes,
    timeout_s: float,
    limits: Limits,
) -> tuple[tuple[bytes, bytes] | None, str | None]:
    """The reply, or why there is none."""
    try:
        dialer = Dialer(context, invite, server_key, address, limits)
    except DialFailed as error:
        raise DialFailed(f"cannot dial {address}: {error}") from None
    poller = zmq.Poller()
    poller.register(dialer.socket, zmq.POLLIN)
    poller.register(dialer.monitor, zmq.POLLIN)
    until = time.monotonic() + timeout_s
    question = Outgoing(0, header, None, "knock", False)
    up = asked = False
    try:
        while (left_s := until - time.monotonic()) > 0:
            # Just after the handshake, the socket may not know yet that it can send.
            asked = asked or (up and dialer.send(question))
            poller.poll(1 if up and not asked else int(min(left_s, LOOK_S) * 1000) + 1)
            if (parts := dialer.read()) is not None:
                return _reply(parts, limits), None
            if dialer.num_unread() > limits.unfinished_bytes:
                return None, TOO_MUCH
            for failure in dialer.events():
                if failure == REFUSED:
                    raise KnockRefused(
                        f"the host at {address} does not admit this ticket: it is unknown, spent, expired or "
                        "revoked; ask for a new one"
                    )
                if failure:
                    return None, failure
                up = True
        return None, "the request was not answered" if asked else "the handshake was not answered"
    finally:
        dialer.close(0.0)


def _reply(parts: list[memoryview], limits: Limits) -> tuple[bytes, bytes]:
    try:
        lane, header, payload = parse(parts, limits)
    except BadMessage as error:
        raise TransportError(f"the host sent no valid reply: {error}") from None
    if lane != 0:
        raise TransportError("the host sent no valid reply: it is on another lane")
    return header, bytes(payload or b"")
