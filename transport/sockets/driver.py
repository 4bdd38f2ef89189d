"""The socket driver: one core on one background thread, so that a training loop stays an ordinary loop.

Feed, drain, carry out, re-arm one timer; it decides nothing about the protocol. It dials each peer
that the core names, lane by lane, again and again; it tells the core who sent what; it closes whoever
breaks the shape of messages. Any error in the core, in a callback or in the journal ends it, is traced,
and is raised by every later call. Keeps R1, R4, X2 and X5.
"""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from transport.counters import OTHERS, Counters
from transport.effects import Close, Connect, Core, Deliver, Effect, Phantom, Send, Store, Trace, size_bytes
from transport.errors import BadMessage, DriverStopped, TransportError
from transport.keys import KeyPair, short
from transport.limits import LIMITS, Limits
from transport.sockets import traces
from transport.sockets.lane import ATTEMPT_S, Lane
from transport.sockets.libzmq import (
    Dialer,
    Handle,
    Listener,
    Poll,
    ReceivedMessage,
    check_libzmq,
    new_context,
    remote,
    shut_down,
)
from transport.sockets.wire import (
    AcceptedConnection,
    AcceptedConnections,
    Outbox,
    Outgoing,
    RateLimiter,
    parse,
)

T = TypeVar("T")

_FRAMES_PER_ROUND = 64
_RETRY_S = 0.002
_CLOSE_GRACE_S = 0.2
_BARRED_S = 10.0
_MAX_LINGER_S = 2.0
_MAX_CALLBACK_S = 10.0


@dataclass(slots=True)
class _Doomed:
    """An accepted connection to be broken once its last frames had time to leave."""

    due: float
    handle: Handle


class SocketDriver:
    """Runs one core. ``on_event`` and ``on_trace`` are called on its thread and must not block;
    ``store`` must be durable when it returns. An error in any of them, or in the core, stops it."""

    def __init__(
        self,
        core: Core,
        keys: KeyPair,
        bind: str | None,
        on_event: Callable[[object], None],
        on_trace: Callable[[Trace], None],
        store: Callable[[bytes], None],
        limits: Limits = LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core, self._keys, self._bind = core, keys, bind
        self._on_event, self._on_trace, self._store = on_event, on_trace, store
        self._limits, self._clock = limits, clock
        self.address: str | None = None
        """Where we listen, with the real port, once started."""
        self.counters = Counters()
        self.error: BaseException | None = None
        """Why the driver stopped by itself, if it did."""
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[Core, float], Any], Future[Any]]] = deque()
        self._accepts_calls = False
        self._stop_linger_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="diloco-transport", daemon=True)
        self._dialled: dict[bytes, list[Lane]] = {}
        self._connections = AcceptedConnections(limits)
        self._random = random.Random()
        self._doomed: list[_Doomed] = []
        self._barred: dict[bytes, float] = {}
        self._knocks, self._doors = (
            RateLimiter(limits.knocks_per_minute),
            RateLimiter(2 * limits.knocks_per_minute),
        )
        self._door: Listener | None = None

    # --- the caller's side: any thread ---

    def start(self) -> None:
        """Listen and run. Raises `TransportError` when libzmq is unfit or the address is taken."""
        check_libzmq()
        self._context = new_context()
        self._poll = Poll()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._poll.watch(self._woken.fileno(), 0, self._serve_calls)
        try:
            if self._bind is not None:
                self._listen(self._bind)
        except TransportError:
            self._close_all(0.0)
            raise
        self._accepts_calls = True
        self._thread.start()

    def call(self, fn: Callable[[Core, float], T]) -> Future[T]:
        """Run ``fn(core, now)`` on the driver's thread; its result comes once the effects are carried out."""
        future: Future[T] = Future()
        with self._lock:
            if not self._accepts_calls:
                raise DriverStopped("the transport is not running") from self.error
            self._calls.append((fn, future))
        self._wake()
        return future

    def stop(self, linger_s: float = 1.0) -> None:
        """Send what waits for at most ``linger_s`` (2 at most) seconds, close everything, end the thread."""
        self._stop_linger_s = min(max(linger_s, 0.0), _MAX_LINGER_S)
        if self._thread.ident is None or threading.current_thread() is self._thread:
            return
        self._wake()
        self._thread.join(self._stop_linger_s + _MAX_CALLBACK_S)
        if self._thread.is_alive():
            raise TransportError(f"the transport does not stop: a callback blocks it for {_MAX_CALLBACK_S} s")

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def _wake(self) -> None:
        # A full pipe already holds a wake-up; a closed one has nobody to wake.
        with suppress(BlockingIOError, OSError):
            self._waker.send(b"x")

    # --- the loop: the driver's thread from here on ---

    def _run(self) -> None:
        linger_s = 0.0
        try:
            self._input(self._core.start)
            while self._stop_linger_s is None:
                self._turn(self._wait_s())
            linger_s = self._flush(self._stop_linger_s)
        except BaseException as error:
            # Traced below and raised by every later call: a dead driver must not look alive.
            self.error = error
        finally:
            self._close_all(linger_s)
        if self.error is not None:
            self._on_trace(traces.TransportFailedTrace(f"{type(self.error).__name__}: {self.error}"))

    def _turn(self, wait_s: float) -> None:
        self._poll.wait(wait_s)
        now = self._clock()
        deadline = self._core.deadline()
        if deadline is not None and deadline <= now:
            self._input(self._core.tick)
        self._tend_lanes(now)
        self._tend_connections(now)

    def _wait_s(self) -> float:
        now = self._clock()
        dues = [lane.due for lanes in self._dialled.values() for lane in lanes if not lane.up]
        dues += [doomed.due for doomed in self._doomed]
        deadline = self._core.deadline()
        if deadline is not None:
            dues.append(deadline)
        # A ROUTER cannot say which of its peers can take more: it is tried again soon.
        if self._connections.waiting():
            dues.append(now + _RETRY_S)
        return max(0.0, min([1.0, *(due - now for due in dues)]))

    def _input(self, feed: Callable[[float], Any]) -> Any:
        result = feed(self._clock())
        for effect in self._core.drain():
            self._carry_out(effect)
        return result

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect)
            case Connect():
                self._connect(effect)
            case Close():
                self._close_peer(effect.peer, effect.reason, _CLOSE_GRACE_S)
            case Store():
                self._store(effect.entry)
            case Deliver():
                self._on_event(effect.event)
            case Trace():
                self._on_trace(effect)

    def _serve_calls(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        with self._lock:
            calls, self._calls = self._calls, deque()
        while calls:
            fn, future = calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._call_in(fn, future)
            except BaseException as error:  # An effect failed, which is fatal: nobody may wait for ever.
                for waiting in (future, *(other for _, other in calls)):
                    if not waiting.done():
                        waiting.set_exception(DriverStopped(f"the transport failed: {error}"))
                raise
            if not future.done():
                future.set_result(result)

    def _call_in(self, fn: Callable[[Core, float], Any], future: Future[Any]) -> Any:
        def feed(now: float) -> Any:
            try:
                return fn(self._core, now)
            except Exception as error:  # The caller's: it is raised from the future.
                future.set_exception(error)

        return self._input(feed)

    # --- listening ---

    def _listen(self, bind: str) -> None:
        self._door = door = Listener(self._context, self._keys, bind, self._limits)
        self._poll.watch(door.asking, 1, lambda: self._serve_handshakes(door))
        self._poll.watch(door.socket, 4, lambda: self._serve_door(door))
        self.address = door.address

    def _serve_handshakes(self, door: Listener) -> None:
        for verdict in door.answer(self._admits_connection, _FRAMES_PER_ROUND):
            if verdict.kind is None:
                self._on_trace(traces.StrangerRefusedTrace(key=short(verdict.key), address=verdict.address))

    def _admits_connection(self, key: bytes) -> str | None:
        now = self._clock()
        kind = self._core.admits(key)
        if self._barred.get(key, now) > now or (kind == "invite" and not self._doors.take(now)):
            return None if kind is None else "later"
        return kind

    def _serve_door(self, door: Listener) -> None:
        for _ in range(_FRAMES_PER_ROUND):
            if (arrived := door.read()) is None:
                return
            # What has no sender has no parts either: there is nothing to take, and nobody to close.
            if arrived.parts and not self._connections.is_gone(arrived.route):
                self._accept(arrived)

    def _accept(self, arrived: ReceivedMessage) -> None:
        key, route = arrived.sender, arrived.route
        kind = self._core.admits(key)
        if kind is None:
            self._break(self._connection(0, arrived), "no longer admitted")
            return
        try:
            if len(route) != 5 or route[0] != 0:
                raise BadMessage("a peer chose its own routing id")
            lane, header, payload = parse(arrived.parts, self._limits)
            known = self._connections.known(key, lane, route)
        except BadMessage as error:
            self._refuse(self._connection(0, arrived), str(error))
            return
        if kind != "member":
            self._answer_knock(self._connection(lane, arrived), header)
            return
        if not known and (older := self._connections.add(self._connection(lane, arrived))) is not None:
            self._doom(older, 0.0)
        self._receive(key, lane, header, payload)

    def _receive(self, peer: bytes, lane: int, header: bytes, payload: memoryview | None) -> None:
        purpose = "bulk" if payload is not None else "control"
        self.counters.add(peer, "received", purpose, 1 + len(header) + size_bytes(payload))
        self._input(lambda now: self._core.receive(now, peer, lane, header, payload))

    def _answer_knock(self, caller: AcceptedConnection, header: bytes) -> None:
        if not self._knocks.take(self._clock()):
            self._break(caller, "too many join attempts")
            return
        self.counters.add(OTHERS, "received", "knock", 1 + len(header))
        reply = self._input(lambda now: self._core.knock(now, caller.peer, header))
        if reply is not None:
            caller.outbox.push(Outgoing(0, reply[0], reply[1], "knock", False))
            self._flush_connection(caller)

    def _connection(self, lane: int, arrived: ReceivedMessage) -> AcceptedConnection:
        handle = remote(arrived.descriptor)
        return AcceptedConnection(arrived.sender, lane, arrived.route, handle, Outbox(self._limits))

    def _refuse(self, offender: AcceptedConnection, reason: str) -> None:
        """An admitted peer broke the rules: it is closed, and may come back after a while."""
        now = self._clock()
        self._barred = {each: until for each, until in self._barred.items() if until > now}
        self._barred[offender.peer] = now + _BARRED_S
        self._break(offender, reason)
        self._close_accepted(offender.peer, 0.0)

    def _break(self, connection: AcceptedConnection, reason: str) -> None:
        self._connections.drop(connection.route)
        self._on_trace(traces.PeerClosedTrace(peer=short(connection.peer), reason=reason))
        self._doom(connection, 0.0)

    def _doom(self, connection: AcceptedConnection, grace_s: float) -> None:
        if connection.handle is not None:
            self._doomed.append(_Doomed(self._clock() + grace_s, connection.handle))

    def _close_accepted(self, peer: bytes, grace_s: float) -> None:
        for connection in self._connections.of_peer(peer):
            self._connections.drop(connection.route)
            self._doom(connection, grace_s)

    def _tend_connections(self, now: float) -> None:
        for connection in self._connections.waiting():
            self._flush_connection(connection)
        for doomed in [each for each in self._doomed if each.due <= now]:
            self._doomed.remove(doomed)
            shut_down(doomed.handle)

    # --- dialling ---

    def _connect(self, effect: Connect) -> None:
        self._close_dialled(effect.peer, 0.0)
        lanes = range(min(effect.lanes, self._limits.lanes) + 1)
        self._dialled[effect.peer] = [
            Lane(effect.peer, lane, effect.addresses, Outbox(self._limits)) for lane in lanes
        ]
        for lane in self._dialled[effect.peer]:
            self._dial(lane, self._clock())

    def _dial(self, lane: Lane, now: float) -> None:
        lane.due = now + ATTEMPT_S
        lane.line = line = Dialer(self._context, self._keys, lane.peer, lane.address, self._limits)
        lane.broken = line.error
        self._poll.watch(line.monitor, 2, lambda: self._serve_events(lane, line))
        self._poll.watch(line.socket, 3 if lane.lane == 0 else 4, lambda: self._serve_line(lane, line))

    def _serve_events(self, lane: Lane, line: Dialer) -> None:
        for failure in line.events():
            if failure:
                lane.broken = lane.broken or failure
            elif not lane.up and lane.broken is None:
                lane.came_up()
                self._input(lambda now: self._core.connected(now, lane.peer, lane.lane))

    def _serve_line(self, lane: Lane, line: Dialer) -> None:
        self._flush_lane(lane)
        for _ in range(_FRAMES_PER_ROUND):
            # None also when the core closed the line in between.
            if (parts := line.read()) is None:
                return
            try:
                number, header, payload = parse(parts, self._limits)
                if number != lane.lane:
                    raise BadMessage("a connection changed its lane")
            except BadMessage as error:
                self._on_trace(traces.PeerClosedTrace(peer=short(lane.peer), reason=str(error)))
                lane.broken = str(error)
                self._hang_up(lane, 0.0)
                return
            self._receive(lane.peer, lane.lane, header, payload)

    def _tend_lanes(self, now: float) -> None:
        for lane in [lane for lanes in self._dialled.values() for lane in lanes]:
            if lane.broken is None and not lane.up and lane.due <= now:
                if lane.line is None:
                    self._dial(lane, now)
                else:
                    lane.broken = "nobody answers there"
            if lane.broken is not None:
                self._redial_later(lane, lane.broken, now)

    def _redial_later(self, lane: Lane, reason: str, now: float) -> None:
        was_up, address = lane.up, lane.address
        self._hang_up(lane, 0.0)
        lane.went_down(now, self._random.uniform(0.5, 1.0))
        kind = traces.LaneLostTrace if was_up else traces.LaneRefusedTrace
        self._on_trace(kind(short(lane.peer), lane.lane, address, reason))
        if was_up:
            self._input(lambda at: self._core.disconnected(at, lane.peer, lane.lane))

    def _hang_up(self, lane: Lane, linger_s: float) -> None:
        lane.outbox.clear()
        if lane.line is not None:
            self._poll.unwatch(lane.line.socket)
            self._poll.unwatch(lane.line.monitor)
            lane.line.close(linger_s)
            lane.line = None

    def _close_dialled(self, peer: bytes, grace_s: float) -> None:
        for lane in self._dialled.pop(peer, []):
            self._hang_up(lane, grace_s)
            # It may still be in the hands of a caller further up: it must never dial again.
            lane.up, lane.broken, lane.due = False, None, math.inf

    def _close_peer(self, peer: bytes, reason: str, grace_s: float) -> None:
        self._close_dialled(peer, grace_s)
        self._close_accepted(peer, grace_s)
        self._on_trace(traces.PeerClosedTrace(peer=short(peer), reason=reason))

    # --- sending ---

    def _send(self, effect: Send) -> None:
        if isinstance(effect.payload, Phantom):
            raise TypeError("a phantom payload cannot travel over a socket")
        message = Outgoing(effect.lane, effect.header, effect.payload, effect.purpose, effect.again)
        lanes = self._dialled.get(effect.peer, [])
        lane = lanes[effect.lane] if effect.lane < len(lanes) else None
        connection = self._connections.find(effect.peer, effect.lane)
        if lane is not None and lane.up and lane.broken is None:
            if not lane.outbox.push(message):
                lane.broken = "too much waits to be sent"
            self._flush_lane(lane)
        elif connection is not None:
            if not connection.outbox.push(message):
                self._break(connection, "too much waits to be sent")
            elif len(connection.outbox) == 1:
                self._flush_connection(connection)

    def _flush_lane(self, lane: Lane) -> None:
        if lane.line is None:
            return
        while len(lane.outbox) and lane.line.send(message := lane.outbox.peek()):
            lane.outbox.pop()
            self._count_sent(lane.peer, message)
        self._poll.want_room(lane.line.socket, len(lane.outbox) > 0)

    def _flush_connection(self, connection: AcceptedConnection) -> None:
        assert self._door is not None
        while len(connection.outbox):
            message = connection.outbox.peek()
            outcome = self._door.send(message, connection.route)
            if outcome == "gone":
                # The peer dials again, and both ends greet and resend.
                self._connections.drop(connection.route)
            if outcome != "sent":
                return
            connection.outbox.pop()
            self._count_sent(connection.peer, message)

    def _count_sent(self, peer: bytes, message: Outgoing) -> None:
        named = OTHERS if message.purpose == "knock" else peer
        self.counters.add(named, "sent", message.purpose, message.size_bytes, message.again)

    # --- the end ---

    def _flush(self, linger_s: float) -> float:
        """Push what waits until it has left or time is up; returns the seconds that remain."""
        with self._lock:
            self._accepts_calls = False
        self._serve_calls()
        until = time.monotonic() + linger_s
        while (left := until - time.monotonic()) > 0:
            waiting = [lane for lanes in self._dialled.values() for lane in lanes if len(lane.outbox)]
            for lane in waiting:
                self._flush_lane(lane)
            for connection in self._connections.waiting():
                self._flush_connection(connection)
            if not waiting and not self._connections.waiting():
                return left
            time.sleep(min(_RETRY_S, left))
        return 0.0

    def _close_all(self, linger_s: float) -> None:
        with self._lock:
            self._accepts_calls = False
            calls, self._calls = self._calls, deque()
        for _, future in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(DriverStopped("the transport has stopped"))
        for peer in list(self._dialled):
            self._close_dialled(peer, linger_s)
        if self._door is not None:
            self._door.close(linger_s)
        self._context.term()
        self._woken.close()
        self._waker.close()
