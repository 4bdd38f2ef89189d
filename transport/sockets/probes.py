"""Looks whether anybody listens at an address: one TCP connection, closed as soon as that is known.

Only a refusal says something, namely that the machine lives and the process does not. Whatever else happens
(an answer, silence, no route, no descriptor left) leaves things as they are. Names are not looked up here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from transport.effects import Probe
from transport.redial import REFUSAL_S
from transport.sockets.core_runner import CoreRunner
from transport.sockets.libzmq import Poll


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

    def __init__(self, runner: CoreRunner, poll: Poll) -> None:
        self._runner, self._poll = runner, poll
        self._attempts: list[_Attempt] = []

    def begin(self, probe: Probe) -> None:
        """Connect to where a peer listens, if its address is a number."""
        where = _numeric(probe.address)
        if where is None:
            return
        with suppress(OSError):  # no descriptor is left: nothing is learnt
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            error = sock.connect_ex(where)
            attempt = _Attempt(probe.peer, sock, self._runner.clock() + REFUSAL_S, error)
            self._attempts.append(attempt)
            self._poll.watch(sock.fileno(), 3, self._note(attempt))

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

    def _note(self, attempt: _Attempt) -> Callable[[], None]:
        def note() -> None:
            attempt.error = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

        return note

    def _tell(self, peer: bytes) -> None:
        self._runner.feed(lambda now: self._runner.core.refused(now, peer))

    def _end(self, attempt: _Attempt) -> None:
        self._poll.unwatch(attempt.sock.fileno())
        attempt.sock.close()


def _numeric(address: str) -> tuple[str, int] | None:
    """Host and port of an address like tcp://1.2.3.4:5; None where the host is a name."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        socket.inet_pton(socket.AF_INET, host)
        return host, int(port)
    except (OSError, ValueError):
        return None
