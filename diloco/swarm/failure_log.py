"""What a process logs of what went wrong on its network thread: one line or traceback per failure.

Lines about any one peer are few a minute, and tell how many were left out. Decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from transport.effects import Trace
from transport.guarded import InputLostTrace
from transport.in_order import StoreFailedTrace, StoreRecoveredTrace
from transport.keys import short
from transport.log_limit import LogLimit, with_left_out
from transport.sockets.traces import BulkOverControlTrace, SocketFailedTrace

_LOG = logging.getLogger("diloco")
TRACE = "trace"
"""Of a log record: the trace that it tells of, for whoever shows traces too."""


class FailureLog:
    """Takes every trace, on the driver's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limit = LogLimit()

    def trace(self, trace: Trace) -> None:
        """Log it, if it tells of a failure."""
        match trace:
            case InputLostTrace():
                who = f"of {short(trace.peer)}" if trace.peer else "of this process itself"
                barred = f"; that peer is not heard for {trace.barred_s:.0f} s" if trace.barred_s else ""
                self._about(
                    trace.peer,
                    f"an input {who} failed here and was lost, the {trace.number}. so far{barred}",
                    trace.traceback,
                )
            case SocketFailedTrace():
                line = f"a connection with {short(trace.peer)} failed here and is made anew"
                self._about(trace.peer, line, trace.traceback)
            case BulkOverControlTrace():
                _LOG.warning(
                    "bulk with %s goes over CURVE for some minutes, more slowly: %s", trace.peer, trace.reason
                )
            case StoreFailedTrace():
                _LOG.error(
                    "the journal cannot be written, nothing is decided until it can: %s",
                    trace.error,
                    extra={TRACE: trace},
                )
            case StoreRecoveredTrace():
                _LOG.warning(
                    "the journal was written again after %.0f s, and the run goes on",
                    trace.seconds,
                    extra={TRACE: trace},
                )

    def _about(self, peer: bytes, line: str, traceback: str) -> None:
        left_out = self._limit.take(self._clock(), peer)
        if left_out is not None:
            _LOG.error("%s:\n%s", with_left_out(line, left_out), traceback)
