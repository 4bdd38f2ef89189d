"""Looks whether anybody listens at an address: one TCP connection, closed as soon as that is known.

Only a refusal says something, namely that the machine lives and the process does not. Whatever else happens
(an answer, silence, no route, no descriptor left, a name that means several machines) leaves things as they
are.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from transport.addresses import is_numeric, parts
from transport.effects import Probe
from transport.redial import REFUSAL_S
from transport.sockets.core_runner import CoreRunner
from transport.sockets.libzmq import Poll
from transport.sockets.names import Lookup, Names


@dataclass(slots=True, eq=False)
class _Attempt:
    peer: bytes
    sock: socket.socket
    due: float
    """When it is given up."""
    error: int
    """Of the connection; `EINPROGRESS` while nothing is known."""


class Probes:
    """The probes under way; all of it runs on the driver's thread."""

    def __init__(self, runner: CoreRunner, poll: Poll, names: Names) -> None:
        self._runner, self._poll, self._names = runner, poll, names
        self._attempts: list[_Attempt] = []

    def begin(self, probe: Probe) -> None:
        """Connect to where a peer listens, once it is known where that is."""
        where = parts(probe.address)
        if where is None:
            return
        host, port = where
        if is_numeric(host):
            self._connect(probe.peer, host, port)
            return

        def found(lookup: Lookup) -> None:
            if len(lookup.found) == 1:
                self._connect(probe.peer, lookup.found[0], port)

        self._names.look_up(host, found)

    def dues(self) -> list[float]:
        """When `serve_due` has something to do."""
        now = self._runner.clock()
        return [now if each.error != errno.EINPROGRESS else each.due for each in self._attempts]

    def serve_due(self, now: float) -> None:
        """Tell the core who refused, and give up what was not answered."""
        for each in list(self._attempts):
            if each.error != errno.EINPROGRESS or each.due <= now:
                self._attempts.remove(each)
                self._end(each)
                if each.error == errno.ECONNREFUSED:
                    self._tell(each.peer)

    def close(self) -> None:
        """Give up all of them."""
        for each in self._attempts:
            self._end(each)
        self._attempts.clear()

    def forked(self) -> None:
        """This is a forked child, where nothing of them is to stay open."""
        for each in self._attempts:
            with suppress(OSError):  # it was closed as one that goes to where we dial
                each.sock.close()

    # -- inside -------------------------------------------------------------------------------

    def _connect(self, peer: bytes, host: str, port: int) -> None:
        with suppress(OSError):  # no descriptor is left: nothing is learnt
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            error = sock.connect_ex((host, port))
            self._attempts.append(_Attempt(peer, sock, self._runner.clock() + REFUSAL_S, error))
            self._poll.watch(sock.fileno(), 3, self._note(self._attempts[-1]))

    def _note(self, attempt: _Attempt) -> Callable[[], None]:
        def note() -> None:
            attempt.error = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

        return note

    def _tell(self, peer: bytes) -> None:
        self._runner.feed(lambda now: self._runner.core.refused(now, peer))

    def _end(self, attempt: _Attempt) -> None:
        self._poll.unwatch(attempt.sock.fileno())
        attempt.sock.close()
