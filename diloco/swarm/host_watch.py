"""What a worker finds where its host should be: another host, or its own that knows it no more.

A host that lost its journal, and one that put the worker out, both refuse the worker's key. Its ticket may
let it in again, or the answer says why not; that is asked on a thread of its own. Another key at the ticket's
address shows itself by connections that end in the handshake, again and again: nothing is lost then, and
nothing but a line is due. The worker keeps its state and trains on in all cases but a refusal that is final.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from diloco.errors import JoinError
from peers.protocol.events import EntryRefused
from transport.effects import CONTROL_LANE, Trace
from transport.errors import KnockRefused, TransportError
from transport.keys import short
from transport.sockets.libzmq import OTHER_KEY, REFUSED
from transport.sockets.traces import LaneLostTrace, LaneRefusedTrace

_LOG = logging.getLogger("diloco")
ASK_EVERY_S = 20.0
_SURE_AFTER = 3
"""So many connections in a row end in the handshake before it is another host: one may be one that dies."""
_FINAL = ("kicked", "settings", "protocol")
"""Refusals that no waiting changes."""


class HostWatch:
    """Watches the control connection to one host. ``ask_in`` knocks with the ticket, and blocks; ``deliver``
    takes an event to the training loop."""

    def __init__(
        self,
        host: bytes,
        ask_in: Callable[[], object],
        deliver: Callable[[object], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = short(host)
        self._ask_in, self._deliver, self._clock = ask_in, deliver, clock
        self._num_others: Counter[str] = Counter()
        """By address."""
        self._asked_at = float("-inf")
        self._told = ""
        self.asking: threading.Thread | None = None
        """The last knock, under way or over."""

    def trace(self, trace: Trace) -> None:
        """Called on the network thread."""
        if not isinstance(trace, LaneLostTrace | LaneRefusedTrace) or trace.peer != self._host:
            return
        if trace.lane != CONTROL_LANE:
            return
        if isinstance(trace, LaneLostTrace):
            self._num_others.clear()
            self._told = ""
            return
        another = trace.reason == OTHER_KEY
        self._num_others[trace.address] = another * (self._num_others[trace.address] + 1)
        if self._num_others[trace.address] >= _SURE_AFTER:
            self._say(
                f"what answers at {trace.address} ends each handshake: it is another host than that of the "
                "ticket, with another key, or a proxy whose host is away. This worker keeps its state and "
                "looks for its host; if that has a new identity, join with its new ticket"
            )
        if trace.reason == REFUSED and self._clock() - self._asked_at >= ASK_EVERY_S:
            self._asked_at = self._clock()
            self.asking = threading.Thread(target=self.ask, name="diloco-ask-in", daemon=True)
            self.asking.start()

    def ask(self) -> None:
        """Ask to be let in again, with the ticket."""
        try:
            self._ask_in()
        except JoinError as error:
            if error.code in _FINAL:
                self._deliver(EntryRefused(error.code, str(error)))
            else:
                self._say(f"the host does not let this worker in again: {error}. It keeps its state")
        except KnockRefused:
            self._say(
                "the host knows neither this worker nor its ticket any more: it was put out, or the host "
                "lost its state. This worker keeps its own; ask the host's owner for a new ticket"
            )
        except TransportError:
            pass  # it will be found refused again

    def _say(self, line: str) -> None:
        if line != self._told:
            self._told = line
            _LOG.warning("%s", line)
