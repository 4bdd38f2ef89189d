"""How fast members compute, as the coordinator sees it, and what the slower ones are told of that.

A member that says that it is fast would have all others take fewer steps. So its speed is the tokens of its
accepted offers over the time in which it trained them, seen from here; until the second of them counts
what it says itself. And whatever one member seems to be, it is taken for at most twice the lower median, and
from three members on for no more than the second fastest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median, median_low

from transport.effects import NEVER

MAX_ABOVE_MEDIAN = 2.0
_CHANGE = 0.05
"""Relative change of a speed that is worth a message."""
_SAMPLES = 5
"""Accepted offers that a speed is the median of."""


def fastest_of(speeds: Collection[float]) -> float:
    """The speed by which members pace themselves; 0 without any."""
    if not speeds:
        return 0.0
    ranked = sorted(speeds)
    largest = ranked[-2] if len(ranked) >= 3 else ranked[-1]
    return min(largest, MAX_ABOVE_MEDIAN * median_low(ranked))


@dataclass(slots=True)
class _Offers:
    """One member's offers of one fragment."""

    ready_at: float = NEVER
    number: int = -1
    tokens: int = 0
    accepted_at: float | None = None
    """When the last offer that was accepted was made; there is nothing to measure before the first one."""
    committed_at: float = 0.0


@dataclass(slots=True)
class MemberPace:
    """What the coordinator saw of one membership."""

    told: float = 0.0
    """The speed of the fastest member, as this one was told."""
    _offers: dict[int, _Offers] = field(default_factory=dict)
    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def offered(self, now: float, fragment: int, number: int, tokens: int) -> None:
        """An offer came; one that is made again is as old as it was."""
        each = self._offers.setdefault(fragment, _Offers())
        if number != each.number:
            each.ready_at, each.number, each.tokens = now, number, tokens

    def accepted(self, now: float, fragment: int, overlap: float) -> None:
        """Its offer is in a commit. ``overlap`` is the share of an outer step for which a worker trains on
        while a result is on its way; then it waits."""
        each = self._offers.get(fragment)
        if each is None or not each.tokens:
            return  # the exchange that counts the tokens is to come
        if each.accepted_at is not None:
            seconds = each.ready_at - each.accepted_at
            if overlap < 1.0:  # until the last result came it trained ``overlap`` of this, and waited
                seconds = min(seconds, (each.ready_at - each.committed_at) / (1.0 - overlap))
            if seconds > 0.0:
                self._seen.append(each.tokens / seconds)
        each.accepted_at, each.committed_at, each.tokens = each.ready_at, now, 0

    def speed(self, claimed: float) -> float:
        """Tokens per second while it trains."""
        return median(self._seen) if self._seen else claimed

    def news(self, fastest: float) -> bool:
        """Whether it is to be told that the fastest is that fast; it is taken to be."""
        if abs(fastest - self.told) <= _CHANGE * fastest:
            return False
        self.told = fastest
        return True
