"""Tells of waits that last: one line after some ten seconds, and again at growing intervals.

`WaitTeller` is pure: time and reasons in, lines out; reasons hold names from other machines, so lines are
plain characters. `WaitWatch` asks for the reason on a thread of its own,
since that may block. Neither decides anything about a run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from diloco.terminal import printable

FIRST_S = 8.0
MAX_EVERY_S = 600.0


class WaitTeller:
    """When to tell of a wait. A reason that changes is told after `FIRST_S` too."""

    def __init__(self) -> None:
        self._reason = ""
        self._since = self._due = 0.0
        self._every_s = FIRST_S

    def line(self, now: float, reason: str) -> str | None:
        """The line that is due for what is waited for at ``now``; nothing is, with an empty ``reason``."""
        if not reason:
            self._reason = ""
            return None
        if not self._reason:
            self._since, self._every_s, self._due = now, FIRST_S, now + FIRST_S
        elif reason != self._reason:
            self._since, self._every_s, self._due = now, FIRST_S, min(self._due, now + FIRST_S)
        self._reason = reason
        if now < self._due:
            return None
        self._every_s = min(MAX_EVERY_S, 2 * self._every_s)
        self._due = now + self._every_s
        return printable(f"waiting for {now - self._since:.0f} s: {reason}")


class WaitWatch:
    """Asks for the reason every so often until it is stopped, and says what is due."""

    def __init__(self, reason: Callable[[float], str], say: Callable[[str], None], every_s: float) -> None:
        self._reason, self._say, self._every_s = reason, say, every_s
        self._teller = WaitTeller()
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="diloco-waits", daemon=True).start()

    def close(self) -> None:
        """Say nothing more; does not wait for a question that is under way."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            reason = self._reason(time.monotonic())
            line = self._teller.line(time.monotonic(), reason)
            if line is not None and not self._ended.is_set():
                self._say(line)
