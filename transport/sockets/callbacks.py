"""The program's own functions that the driver calls: one that raises loses that call, and nothing else.

What failed is logged with its traceback, counted, and told as a trace, unless it was the function for traces.
A program that fails at every event gets a bounded number of lines. Keeps X2.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from transport.effects import Trace
from transport.log_limit import LogLimit, with_left_out
from transport.sockets.traces import CallbackFailedTrace

_LOG = logging.getLogger("diloco")


class Callbacks:
    """Calls ``on_event`` and ``on_trace``, on the driver's thread."""

    def __init__(
        self,
        on_event: Callable[[object], None],
        on_trace: Callable[[Trace], None],
        clock: Callable[[], float],
    ) -> None:
        self.num_failed = 0
        """Calls that raised."""
        self._on_event, self._on_trace, self._clock = on_event, on_trace, clock
        self._limit = LogLimit()

    def event(self, event: object) -> None:
        """Hand over one event."""
        try:
            self._on_event(event)
        except Exception as error:
            self._failed("event", type(event).__name__, error)
            told = "".join(traceback.format_exception(error))
            self.trace(CallbackFailedTrace(f"{type(error).__name__}: {error}", told, self.num_failed))

    def trace(self, trace: Trace) -> None:
        """Tell one trace."""
        try:
            self._on_trace(trace)
        except Exception as error:
            self._failed("trace", trace.name, error)

    def _failed(self, kind: str, what: str, error: Exception) -> None:
        self.num_failed += 1
        left_out = self._limit.take(self._clock(), kind.encode())
        if left_out is not None:
            line = f"the program's function for {kind}s failed at {what}, the {self.num_failed}. time"
            _LOG.error(with_left_out(line, left_out), exc_info=error)
