"""What a worker's disk fails at, for people: each kind is told once, until it works again."""

from __future__ import annotations

import logging

_LOG = logging.getLogger("diloco")


class Complaints:
    """Of one worker."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def fails(self, what: str, line: str) -> None:
        """It failed, now or still."""
        if what not in self._failing:
            _LOG.warning("%s", line)
        self._failing.add(what)

    def works(self, what: str) -> None:
        """It did not fail: the next time is told again."""
        self._failing.discard(what)
