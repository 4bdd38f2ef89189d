"""The threads that serve sealed lanes: they seal and send, receive and open, and tell the driver's thread.

The first few connections have two threads of their own, which wait in the kernel for a record (`arrivals`):
nothing is cheaper. Beyond that `NUM_SHARED` of each kind serve all others and never wait for one of them, so
that who stalls in the midst of a record holds up nobody. A thread decides nothing: that a connection has
ended it says once, after everything that came over it.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from transport.sockets.sealed_connection import Frame, SealedConnection

OWN = 4
"""So many connections have threads of their own."""
NUM_SHARED = min(4, os.cpu_count() or 1)
_AT_ONCE = 8
"""Records of one connection before others have their turn."""
_READS, _WRITES = selectors.EVENT_READ, selectors.EVENT_WRITE


class Ended:
    """Nothing more comes over a connection."""

    def __init__(self, connection: SealedConnection, error: Exception) -> None:
        self.connection, self.error = connection, error


Tell = Callable[[Frame | Ended], None]


class LaneThreads:
    """Gives each connection its threads; ``tell`` is called on them."""

    def __init__(self, tell: Tell, own: int = OWN, num_shared: int = NUM_SHARED) -> None:
        self._tell, self._own, self._num_shared = tell, own, num_shared
        self._threads: dict[SealedConnection, list[threading.Thread]] = {}
        # Streams have shared threads of their own: those of other bulk wait while a stream is under way.
        self._senders: dict[bool, list[_SharedSender]] = {True: [], False: []}
        self._receivers: dict[bool, list[_SharedReceiver]] = {True: [], False: []}

    def serve(self, connection: SealedConnection) -> None:
        """Have it served until it ends. Raises `OSError` or `RuntimeError` if no descriptor or no thread can
        be had; then it has to be ended and its socket closed."""
        for gone in [each for each, two in self._threads.items() if not any(t.is_alive() for t in two)]:
            del self._threads[gone]
        kind = connection.is_patient
        if sum(each.is_patient is kind for each in self._threads) < self._own:
            self._serve_alone(connection)
            return
        senders, receivers = self._senders[kind], self._receivers[kind]
        while len(senders) < self._num_shared:
            senders.append(_SharedSender())
        while len(receivers) < self._num_shared:
            receivers.append(_SharedReceiver(self._tell))
        connection.sock.setblocking(False)
        min(senders, key=len).serve(connection)
        min(receivers, key=len).serve(connection)

    def close(self) -> None:
        """Wait for all of them to leave: every connection was ended before."""
        for two in self._threads.values():
            for thread in two:
                thread.join()
        for each in self._all_shared():
            each.close()

    def forked(self) -> None:
        """This is a forked child, where none of the threads is."""
        for each in self._all_shared():
            each.forked()

    def _all_shared(self) -> list[_Shared]:
        return [each for kind in (True, False) for each in (*self._senders[kind], *self._receivers[kind])]

    def _serve_alone(self, connection: SealedConnection) -> None:
        connection.sock.setblocking(True)
        connection.sends_at_once = True
        self._threads[connection] = [
            threading.Thread(target=_send_alone, args=(connection,), name="diloco-send", daemon=True),
            threading.Thread(
                target=_receive_alone, args=(connection, self._tell), name="diloco-receive", daemon=True
            ),
        ]
        for thread in self._threads[connection]:
            thread.start()


def _send_alone(connection: SealedConnection) -> None:
    try:
        while (message := connection.queue.get()) is not None:
            connection.send(0, message)
    except Exception as error:
        connection.fails(error)
    finally:
        connection.break_off()  # what came before that is received, and then the end is told
        connection.leave()


def _receive_alone(connection: SealedConnection, tell: Tell) -> None:
    room = threading.Event()
    connection.say_room = room.set
    try:
        while True:
            frame = connection.receive(waits=True)
            assert frame is not None, "it was waited for"
            tell(frame)
            while connection.is_full:
                room.clear()
                connection.is_paused = True
                if connection.is_full:  # it may have got room before that
                    room.wait()
    except Exception as error:
        tell(Ended(connection, error))
    finally:
        connection.break_off()
        connection.leave()


class _Shared:
    """One thread with many connections, which are handed to it through a queue."""

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, _READS)
        self._asked: deque[SealedConnection | None] = deque()
        self._served: set[SealedConnection] = set()
        self._num_served = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return self._num_served

    def ask(self, connection: SealedConnection | None) -> None:
        """Look at a connection; None: come to an end. Any thread."""
        self._asked.append(connection)
        with suppress(OSError):  # a full pipe already holds a wake-up
            self._waker.send(b"x")

    def close(self) -> None:
        self.ask(None)
        self._thread.join()
        self.forked()

    def forked(self) -> None:
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._woken:
                    self._serve(key.data)
            with suppress(BlockingIOError):
                self._woken.recv(4096)
            while self._asked:
                connection = self._asked.popleft()
                if connection is None:
                    for each in list(self._served):  # ended, and not looked at since
                        self._leave(each)
                    return
                self._look(connection)

    def _look(self, connection: SealedConnection) -> None:
        raise NotImplementedError

    def _serve(self, connection: SealedConnection) -> None:
        raise NotImplementedError

    def _watch(self, connection: SealedConnection, events: int) -> None:
        """Wait for it to be ready for these; 0: for nothing."""
        known = connection.sock in self._selector.get_map()
        if known and not events:
            self._selector.unregister(connection.sock)
        elif events and not known:
            self._selector.register(connection.sock, events, connection)

    def _leave(self, connection: SealedConnection) -> None:
        self._watch(connection, 0)
        self._served.discard(connection)
        self._num_served -= 1
        connection.break_off()
        connection.leave()


class _SharedSender(_Shared):
    def __init__(self) -> None:
        super().__init__("diloco-send")

    def serve(self, connection: SealedConnection) -> None:
        """From now on this thread sends over it."""
        self._num_served += 1
        self._served.add(connection)
        connection.say_waits = lambda: self.ask(connection)
        self.ask(connection)

    def _look(self, connection: SealedConnection) -> None:
        if connection in self._served:
            self._serve(connection)

    def _serve(self, connection: SealedConnection) -> None:
        try:
            is_full = not connection.send_waiting(socket.MSG_DONTWAIT)
        except Exception as error:
            connection.fails(error)
            self._leave(connection)
        else:
            self._watch(connection, _WRITES if is_full else 0)


class _SharedReceiver(_Shared):
    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        super().__init__("diloco-receive")

    def serve(self, connection: SealedConnection) -> None:
        """From now on this thread receives what comes over it."""
        self._num_served += 1
        self._served.add(connection)
        connection.say_room = lambda: self.ask(connection)
        self.ask(connection)

    def _look(self, connection: SealedConnection) -> None:
        if connection in self._served:
            self._watch(connection, 0 if connection.is_full else _READS)

    def _serve(self, connection: SealedConnection) -> None:
        try:
            for _ in range(_AT_ONCE):
                frame = connection.receive(waits=False)
                if frame is None:
                    break
                self._tell(frame)
                if connection.is_full:
                    self._watch(connection, 0)
                    connection.is_paused = True
                    self.ask(connection)  # it may have got room before that
                    break
        except Exception as error:
            self._tell(Ended(connection, error))
            self._leave(connection)
