"""Ctrl-C and SIGTERM: the first one leaves in order, a second one, or the end of the notice, stops at once.

What "in order" means is up to whoever is at work: a worker ends between two inner steps, so that what it
saves is whole; by default the main thread gets `KeyboardInterrupt`. A machine that is about to be taken away
says so by SIGTERM, and gives a notice of some seconds. Installs no handler for a signal that is ignored, so
that nohup keeps its meaning. Decides nothing about runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
NOTICE_S = 30.0
"""The shortest notice that machines on loan give as a rule."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """What a signal does just now. Handlers run on the main thread, between two of its instructions."""

    def __init__(self, notice_s: float = NOTICE_S) -> None:
        self.requested: signal.Signals | None = None
        """The first signal that came."""
        self.notice_s = notice_s
        """So long after a signal that no person sends by hand the process ends, whatever it does then."""
        self.at_once: Callable[[], object] = lambda: None
        """Called by a second signal, and where the notice ends, right before the process does."""
        self._in_order: Callable[[], object] | None = None
        self._clock: threading.Timer | None = None

    @contextmanager
    def ending_with(self, in_order: Callable[[], object]) -> Iterator[None]:
        """Meanwhile the first signal calls ``in_order`` and raises nothing."""
        self._in_order = in_order
        try:
            yield
        finally:
            self._in_order = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.requested is not None:
            self._end()
        self.requested = signal.Signals(number)
        if self.requested is not signal.SIGINT:
            # Not a signal's timer: its handler would wait for the step that takes too long.
            self._clock = threading.Timer(self.notice_s, self._end, [self.notice_s])
            self._clock.daemon = True
            self._clock.start()
        if self._in_order is None:
            raise KeyboardInterrupt
        self._in_order()

    def close(self) -> None:
        """What was to be done in order is."""
        if self._clock is not None:
            self._clock.cancel()

    def _end(self, notice_s: float | None = None) -> None:
        if notice_s is not None:
            text = f"the notice of {notice_s:g} s is over: ended at once, with what was saved before"
            print(f"diloco: {text}", file=sys.stderr, flush=True)
        self.at_once()
        os._exit(EXIT_CODE)


@contextmanager
def handled(notice_s: float = NOTICE_S) -> Iterator[Interrupts]:
    """Handle signals within; the earlier handlers come back after."""
    interrupts = Interrupts(notice_s)
    earlier = {each: signal.getsignal(each) for each in SIGNALS}
    mine = [each for each, handler in earlier.items() if handler is not signal.SIG_IGN]
    for each in mine:
        signal.signal(each, interrupts.handle)
    try:
        yield interrupts
    finally:
        interrupts.close()
        for each in mine:
            signal.signal(each, earlier[each])
