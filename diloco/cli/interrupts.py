"""Ctrl-C and SIGTERM for the command line: the first one leaves in order, a second one stops at once, also
while the interpreter ends.

What "in order" means is up to whoever is at work: a worker ends between two inner steps, so that what it
saves is whole; by default the main thread gets `KeyboardInterrupt`. Installs no handler for a signal
that is ignored, so that nohup keeps its meaning. Decides nothing about runs.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """What a signal does just now. Handlers run on the main thread, between two of its instructions."""

    def __init__(self) -> None:
        self.requested = False
        self.at_once: Callable[[], object] = lambda: None
        """Called by a second signal, right before the process ends."""
        self._in_order: Callable[[], object] | None = None

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
        if self.requested:
            self.at_once()
            os._exit(EXIT_CODE)
        self.requested = True
        if self._in_order is None:
            raise KeyboardInterrupt
        self._in_order()


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Handle signals within; the earlier handlers come back after. `KeyboardInterrupt` becomes one line and
    `SystemExit`."""
    interrupts = Interrupts()
    earlier = {each: signal.getsignal(each) for each in _SIGNALS}
    mine = [each for each, handler in earlier.items() if handler is not signal.SIG_IGN]
    for each in mine:
        signal.signal(each, interrupts.handle)
    try:
        yield interrupts
    except KeyboardInterrupt:
        print("diloco: interrupted, left the run", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from None
    finally:
        for each in mine:
            signal.signal(each, earlier[each])


def end_at_once() -> None:
    """The command is over: until the interpreter has ended a signal ends the process with `EXIT_CODE`."""
    for each in _SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_CODE)


@atexit.register
def _ignore_the_rest() -> None:
    """What was registered first is called last. From here on nothing can hang, and the interpreter takes its
    handlers away: a signal would kill the process by itself, and hide how the command ended."""
    for each in _SIGNALS:
        if signal.getsignal(each) is _end:
            signal.signal(each, signal.SIG_IGN)
