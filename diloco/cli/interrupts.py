"""How an interrupted command ends: in one line, with its exit code, also while the interpreter ends."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from diloco.interrupts import EXIT_CODE, NOTICE_S, SIGNALS, Interrupts, handled


@contextmanager
def leaving_in_order(
    notice_s: float = NOTICE_S, said: Callable[[], str] = lambda: "interrupted, left the run"
) -> Iterator[Interrupts]:
    """Ctrl-C and SIGTERM within end the command in order, with what ``said`` gives as its last line."""
    try:
        with handled(notice_s) as interrupts:
            yield interrupts
    except KeyboardInterrupt:
        print(f"diloco: {said()}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from None


def end_at_once() -> None:
    """The command is over: until the interpreter has ended a signal ends the process with `EXIT_CODE`."""
    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_CODE)


@atexit.register
def _ignore_the_rest() -> None:
    """What was registered first is called last. From here on nothing can hang, and the interpreter takes its
    handlers away: a signal would kill the process by itself, and hide how the command ended."""
    for each in SIGNALS:
        if signal.getsignal(each) is _end:
            signal.signal(each, signal.SIG_IGN)
