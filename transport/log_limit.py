"""How many lines a log gets about one peer: a few a minute, and then how many were left out.

Whoever misbehaves a thousand times a second must not fill a disk with our complaints, nor hide others' lines
among them. State only; it reads no clock and writes nothing. Keeps R4.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from transport.limits import LIMITS, Limits

WINDOW_S = 60.0
"""What the lines of one peer are counted over."""


@dataclass(slots=True)
class _Told:
    since: float
    lines: int = 0
    left_out: int = 0


@dataclass(slots=True)
class LogLimit:
    """Counts lines by whom they are about; of too many peers the one that was quiet longest is forgotten."""

    limits: Limits = LIMITS
    _told: OrderedDict[bytes, _Told] = field(default_factory=OrderedDict)

    def take(self, now: float, peer: bytes) -> int | None:
        """None if a line about ``peer`` is to be left out; else how many were since the last one."""
        told = self._told.setdefault(peer, _Told(now))
        self._told.move_to_end(peer)
        if len(self._told) > self.limits.peers_told_of:
            self._told.popitem(last=False)
        if now - told.since >= WINDOW_S:
            told.since, told.lines = now, 0
        if told.lines >= self.limits.lines_per_peer:
            told.left_out += 1
            return None
        told.lines += 1
        left_out, told.left_out = told.left_out, 0
        return left_out


def with_left_out(line: str, left_out: int) -> str:
    """The line, with how many others about this peer there were."""
    return f"{line} ({left_out} more lines about it were left out)" if left_out else line
