"""The socket driver: one core on one background thread, so that a training loop stays an ordinary loop.

Feed, drain, carry out, re-arm one timer; it decides nothing about the protocol. Whom the core names is
dialled by `transport.sockets.dialled`; who dials us is taken by `transport.sockets.accepted`. An input at
which the core fails is lost (`transport.guarded`), and a journal that cannot be written holds all back that
follows (`transport.in_order`). A callback that raises loses that call, and a socket that fails is made anew.
A broken state of the core, or a journal that fails otherwise than a disk does, ends the driver: it is logged,
traced, and raised by every later call.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from random import Random
from typing import Any, TypeVar

from transport.effects import (
    Close,
    Connect,
    Core,
    Deliver,
    Effect,
    KeepFailedTrace,
    KeepResult,
    Phantom,
    Probe,
    Send,
    Store,
    Trace,
)
from transport.errors import DriverStopped, TransportError
from transport.keys import KeyPair, short
from transport.limits import LIMITS, Limits
from transport.sockets.accepted import AcceptedLanes
from transport.sockets.aes_hardware import has_fast_aes
from transport.sockets.bulk_door import listen_beside
from transport.sockets.callbacks import Callbacks
from transport.sockets.control import Control
from transport.sockets.core_runner import CoreRunner
from transport.sockets.descriptors import check_descriptors, raise_descriptor_limit
from transport.sockets.dialled import DialledLanes
from transport.sockets.forks import Ends, close_in_children, keep_in_children
from transport.sockets.half_open import HalfOpenBounds
from transport.sockets.libzmq import Listener, Poll, check_libzmq, new_context
from transport.sockets.names import Names, Resolve, resolve_name
from transport.sockets.probes import Probes
from transport.sockets.sealed_lanes import Bulk, SealedLanes
from transport.sockets.traces import PeerClosedTrace, SocketFailedTrace, TransportFailedTrace
from transport.sockets.unread import LOOK_S
from transport.sockets.upload_gate import UploadGate
from transport.sockets.wire import Outgoing

T = TypeVar("T")
_LOG = logging.getLogger("diloco")

_RETRY_S = 0.002
_CLOSE_GRACE_S = 0.2
_MAX_LINGER_S = 2.0
_MAX_CALLBACK_S = 10.0


class SocketDriver:
    """Runs one core. ``on_event`` and ``on_trace`` are called on its thread and must not block; an error in
    either is logged, and loses that call. ``store`` must be durable when it returns; where it raises
    `OSError`, it must have left the journal as it was, and is called again. ``keep`` puts a result on the
    disk before anything is said of it; where it raises `OSError`, a trace tells so and all goes on. While
    ``store`` fails ``say_disk_full(now)`` is called about once a second: the core may tell others."""

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
        resolve: Resolve = resolve_name,
        keep: Callable[[KeepResult], None] | None = None,
        say_disk_full: Callable[[float], None] = lambda now: None,
        bulk: Bulk | None = None,
    ) -> None:
        self._core, self._keys, self._bind = core, keys, bind
        self._store, self._limits, self._clock, self._resolve = store, limits, clock, resolve
        self._callbacks, self._keep = Callbacks(on_event, on_trace, clock), keep
        self._say_disk_full, self._bulk = say_disk_full, bulk
        self._runner = CoreRunner(core, clock, self._callbacks.trace, self._carry_out)
        self.counters = self._runner.counters
        self.address: str | None = None
        """Where we listen, with the real port, once started."""
        self.bulk_address: str | None = None
        """The same for sealed lanes, if there are any."""
        self.accepted: AcceptedLanes | None = None
        """The listening side; of the driver's thread, which `call` reaches."""
        self.error: BaseException | None = None
        """Why the driver stopped by itself, if it did."""
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[Core, float], Any], Future[Any]]] = deque()
        self._accepts_calls = False
        self._stop_linger_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="diloco-transport", daemon=True)

    # --- the caller's side: any thread ---

    def start(self) -> None:
        """Listen and run. Raises `TransportError` when libzmq is unfit or the address is taken."""
        check_libzmq()
        descriptors = raise_descriptor_limit()
        check_descriptors(descriptors)
        self._context = new_context()
        self._poll = Poll()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._poll.watch(self._woken.fileno(), 0, self._serve_calls)
        names = Names(self._wake, self._resolve, self._limits)
        gate = UploadGate(None) if self._bulk is None else self._bulk.gate
        self._dialled = DialledLanes(
            self._runner, self._context, self._poll, self._keys, names, self._limits, Random(), gate
        )
        control, run = Control(self._dialled), b"" if self._bulk is None else self._bulk.run
        self.sealed = SealedLanes(
            self._runner, self._poll, self._keys.public, control, self._limits, run, gate
        )
        self._dialled.on_word, self._dialled.is_carried = self.sealed.take_word, self.sealed.carries
        self._dialled.on_refused = self.sealed.give_up_peer
        self._probes = Probes(self._runner, self._poll, names)
        try:
            if self._bind is not None:
                listener = Listener(self._context, self._keys, self._bind, self._limits)
                bounds = HalfOpenBounds.of(self._limits, descriptors)
                self.accepted = AcceptedLanes(self._runner, listener, self._poll, self._limits, bounds, gate)
                self.accepted.on_word = self.sealed.take_word
                self.accepted.on_refused = self.sealed.give_up_peer
                control.accepted, self.address = self.accepted, listener.address
            self._open_bulk_port()
        except TransportError:
            self._close_all(0.0)
            raise
        self._accepts_calls = True
        close_in_children(self)
        self._thread.start()

    def _open_bulk_port(self) -> None:
        if self._bulk is None or not has_fast_aes():
            return
        listener = None
        if self.address is not None:
            host, _, port = self.address.removeprefix("tcp://").rpartition(":")
            listener = listen_beside(host, int(port), self._bulk.port)
            self.bulk_address = f"tcp://{host}:{listener.getsockname()[1]}"
        self.sealed.open(listener)

    def call(self, fn: Callable[[Core, float], T]) -> Future[T]:
        """Run ``fn(core, now)`` on the driver's thread; its result comes once the effects are carried out, or
        at once while the journal cannot be written."""
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
    def unwritten(self) -> str | None:
        """Why the journal cannot be written just now, if it cannot."""
        return self._runner.order.error

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    # --- in a forked child ---

    def ends(self) -> Ends:
        """How its connections are told from others of the process."""
        listens = None
        if self.address is not None:
            host, _, port = self.address.removeprefix("tcp://").rpartition(":")
            listens = host, int(port)
        return Ends(listens, self._dialled.targets())

    def forked(self) -> None:
        """This is a child: there is no thread and no connection here, and every call is told so."""
        self._lock = threading.Lock()  # the thread may have held it
        self._accepts_calls = False
        self._woken.close()
        self._waker.close()
        self._probes.forked()
        self.sealed.forked()

    def _wake(self) -> None:
        # A full pipe already holds a wake-up; a closed one has nobody to wake.
        with suppress(BlockingIOError, OSError):
            self._waker.send(b"x")

    # --- the loop: the driver's thread from here on ---

    def _run(self) -> None:
        linger_s = 0.0
        try:
            self._runner.feed(self._runner.core.start)
            while self._stop_linger_s is None:
                self._turn(self._wait_s())
            linger_s = self._flush(self._stop_linger_s)
        except BaseException as error:
            # Traced below and raised by every later call: a dead driver must not look alive.
            self.error = error
        finally:
            self._close_all(linger_s)
        if self.error is not None:
            _LOG.error("the network thread has ended by an error", exc_info=self.error)
            self._callbacks.trace(TransportFailedTrace(f"{type(self.error).__name__}: {self.error}"))

    def _turn(self, wait_s: float) -> None:
        if (retry_at := self._runner.order.due) is not None:
            self._turn_held(wait_s, retry_at)
            return
        self._poll.wait(wait_s)
        now = self._clock()
        deadline = self._runner.core.deadline()
        if deadline is not None and deadline <= now:
            self._runner.feed(self._runner.core.tick)
        self._dialled.serve_due(now)
        self.sealed.serve_due(now)
        self._probes.serve_due(now)
        if self.accepted is not None:
            self.accepted.serve_due(now)

    def _turn_held(self, wait_s: float, retry_at: float) -> None:
        """The journal cannot be written: the core gets nothing, and what others make us hold has bounds."""
        self._poll.wait(wait_s, early_only=True)
        now = self._clock()
        if self.accepted is not None:
            self.accepted.guard(now)
        self._dialled.guard(now)
        if now >= retry_at:
            self._runner.order.retry(now)
            self._serve_calls()
            if self._runner.order.is_held:
                self._runner.say_beside(self._say_disk_full)

    def _wait_s(self) -> float:
        now = self._clock()
        if (retry_at := self._runner.order.due) is not None:
            return min(max(0.0, retry_at - now), LOOK_S)
        dues = self._dialled.dues() + self._probes.dues() + self.sealed.dues()
        deadline = self._runner.core.deadline()
        if deadline is not None:
            dues.append(deadline)
        if self.accepted is not None:
            dues += self.accepted.dues()
            # A ROUTER cannot say which of its peers can take more: it is tried again soon.
            if self.accepted.is_waiting():
                dues.append(now + _RETRY_S)
        return max(0.0, min([1.0, *(due - now for due in dues)]))

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send() | Connect() | Close():
                try:
                    self._use_sockets(effect)
                except Exception as error:
                    self._renew(effect.peer, error)
            case Probe():
                self._probes.begin(effect)
            case Store():
                self._store(effect.entry)
            case KeepResult():
                self._keep_result(effect)
            case Deliver():
                self._callbacks.event(effect.event)
            case Trace():
                self._callbacks.trace(effect)

    def keep_results(self, keep: Callable[[KeepResult], None]) -> None:
        """Results are handed to this function from now on; on any thread."""
        self._keep = keep

    def _keep_result(self, effect: KeepResult) -> None:
        """On the disk if it takes it; the round needs it in memory alone."""
        if self._keep is None:
            return
        try:
            self._keep(effect)
        except OSError as error:
            self._callbacks.trace(KeepFailedTrace(effect.serial, f"{type(error).__name__}: {error}"))

    def _use_sockets(self, effect: Send | Connect | Close) -> None:
        match effect:
            case Send():
                self._send(effect)
            case Connect():
                self._dialled.connect(effect)
            case Close():
                self._close_peer(effect.peer, effect.reason)

    def _renew(self, peer: bytes, error: Exception) -> None:
        """Something of ours or of libzmq's failed at this peer: its connections begin anew."""
        if isinstance(error, AssertionError):
            raise error
        said, told = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        self._callbacks.trace(SocketFailedTrace(peer, said, told))
        self.sealed.close_peer(peer)
        self._dialled.break_all(peer, f"it failed here: {said}")
        if self.accepted is not None:
            self.accepted.close_peer(peer, 0.0)

    def _send(self, effect: Send) -> None:
        if isinstance(effect.payload, Phantom):
            raise AssertionError("a phantom payload cannot travel over a socket")
        message = Outgoing(effect.lane, effect.header, effect.payload, effect.purpose, effect.again)
        if self.sealed.send(effect.peer, message) or self._dialled.send(effect.peer, message):
            return
        if self.accepted is not None:
            self.accepted.send(effect.peer, message)

    def _close_peer(self, peer: bytes, reason: str) -> None:
        self.sealed.close_peer(peer)
        self._dialled.close(peer, _CLOSE_GRACE_S)
        if self.accepted is not None:
            self.accepted.close_peer(peer, _CLOSE_GRACE_S)
        self._runner.trace(PeerClosedTrace(short(peer), reason))

    def _serve_calls(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        if self._runner.order.is_full:  # those who called wait, until it can be written
            return
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

        return self._runner.feed(feed)

    # --- the end ---

    def _flush(self, linger_s: float) -> float:
        """Push what waits until it has left or time is up; returns the seconds that remain."""
        with self._lock:
            self._accepts_calls = False
        self._serve_calls()
        self._runner.order.retry(self._clock())
        until = time.monotonic() + linger_s
        while (left := until - time.monotonic()) > 0:
            waits = self._dialled.flush() | self.sealed.is_waiting()
            if self.accepted is not None:
                waits |= self.accepted.flush()
            if not waits:
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
        keep_in_children(self)
        self.sealed.close()
        self._dialled.close_all(linger_s)
        self._probes.close()
        if self.accepted is not None:
            self.accepted.close(linger_s)
        self._context.term()
        self._woken.close()
        self._waker.close()
