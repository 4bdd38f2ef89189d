"""Which share of the connections of an address is let in while it opens them without end: pure.

Taking a connection and parting from it costs a processor most of what a stranger can cost, and libzmq takes
whatever comes. So of an address that opens more than a bound per second a part is let in, as many as the
bound; the others wait in their own kernel and try again. Whoever has gone before it was looked at counts for
the addresses that were seen often at that time, or where none was for all that have no share of their own.
Connections that stand are not touched, and no address is shut out: a member behind a loud one comes in later.
Keeps X1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from transport.effects import Trace

MOST_SEEN = 4096
"""Addresses that are counted at a time."""
WINDOW_S = 0.5
"""Between two looks at what came."""
LEAST = 1 / 64
"""Of any address at least this share is let in."""
MOST_ADDRESSES = 32
"""Addresses with a share of their own."""
_OFTEN = 16
"""An address that was seen less often is not blamed for those of which it is not known whence they came."""
OTHERS = ""
"""Stands for all addresses that have none."""
_ALL_TOGETHER = 4
"""So many times the bound of one address is that of all others together."""


@dataclass(frozen=True, slots=True)
class FloodTrace(Trace):
    """Connections come without end, and a part of them is let in from now on."""

    whence: str
    """Addresses, or what is known of them."""
    is_held_back: bool
    """Whether the system does so."""


@dataclass(frozen=True, slots=True)
class FloodOverTrace(Trace):
    """They have ended."""


class Floods:
    """Counts what comes, and decides at ``decide``. Shares are below 1, by address."""

    def __init__(self, per_second: float) -> None:
        self.shares: dict[str, float] = {}
        self._bounds = per_second, _ALL_TOGETHER * per_second
        self._seen: Counter[str] = Counter()
        self._gone = 0
        self._since: float | None = None

    @property
    def due(self) -> float | None:
        """When to look next; None while nothing comes and all are let in."""
        return None if self._since is None else self._since + WINDOW_S

    @property
    def num_seen(self) -> int:
        """Addresses that are counted just now."""
        return len(self._seen)

    def came(self, now: float, address: str | None) -> None:
        """A connection came, from an address that is not known any more if it is None."""
        if self._since is None:
            self._since = now
        if address is None:
            self._gone += 1
        elif address in self._seen or len(self._seen) < MOST_SEEN:
            self._seen[address] += 1

    def decide(self, now: float) -> bool:
        """Decide, if it is time, about what comes from now on; whether shares have changed."""
        if self.due is None or now < self.due:
            return False
        assert self._since is not None, "it is due"
        rates, before = self._rates(now - self._since), dict(self.shares)
        for address in {*rates, *before}:
            bound = self._bounds[address == OTHERS]
            self._share(address, rates.get(address, 0.0) / bound)
        while len(self.shares) > MOST_ADDRESSES + (OTHERS in self.shares):
            del self.shares[max(self.shares.keys() - {OTHERS}, key=self.shares.__getitem__)]
        self._seen.clear()
        self._gone, self._since = 0, now if self.shares else None
        return self.shares != before

    def _rates(self, seconds: float) -> dict[str, float]:
        """Connections per second, of each loud address and of all others."""
        often = sum(number for number in self._seen.values() if number >= _OFTEN)
        each = (1 + self._gone / often if often else 1.0) / seconds
        rates = {a: number * (each if number >= _OFTEN else 1 / seconds) for a, number in self._seen.items()}
        loud = {a: rate for a, rate in rates.items() if rate > self._bounds[0] or a in self.shares}
        others = sum(rates.values()) - sum(loud.values()) + (0 if often else self._gone / seconds)
        return {**loud, OTHERS: others}

    def _share(self, address: str, excess: float) -> None:
        """``excess`` is how many times its bound an address has come."""
        share = self.shares.get(address, 1.0)
        if excess > 1.0:
            self.shares[address] = max(LEAST, share / excess)
        elif excess < 0.5 and address in self.shares:
            self.shares[address] = 2.0 * share
            if self.shares[address] >= 1.0:
                del self.shares[address]
