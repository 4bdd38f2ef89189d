"""Connections that others opened and over which nothing came yet: how many there may be.

Whoever connects holds a descriptor of ours until its handshake succeeds or has run out of time, and needs no
key for that. Beyond a bound for one address, and one for all, the oldest of them is broken: a peer with a
key needs milliseconds, and one that was unlucky dials again. State only; it owns no socket. Keeps R4 and X1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from transport.limits import Limits


@dataclass(frozen=True, slots=True)
class HalfOpenBounds:
    """How many connections may be half open."""

    per_address: int
    in_all: int

    @classmethod
    def of(cls, limits: Limits, descriptors: int) -> HalfOpenBounds:
        """Those of the limits, and never more than a part of the descriptors that this process may have."""
        return cls(
            min(limits.half_open_per_address, max(1, descriptors // 8)),
            min(limits.half_open, max(1, descriptors // 4)),
        )


@dataclass(slots=True)
class HalfOpen:
    """The half-open connections by descriptor, the oldest first. ``break_it`` ends one."""

    bounds: HalfOpenBounds
    break_it: Callable[[int], None]
    num_broken: int = 0
    _address_of: dict[int, str] = field(default_factory=dict)
    _by_address: dict[str, dict[int, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._address_of)

    def opened(self, descriptor: int, address: str) -> None:
        """Somebody at this address connected; the oldest connection is broken if there are too many."""
        self.closed(descriptor)  # a descriptor that is given out anew belongs to nobody else any more
        self._address_of[descriptor] = address
        same = self._by_address.setdefault(address, {})
        same[descriptor] = None
        if len(same) > self.bounds.per_address:
            self._break(next(iter(same)))
        elif len(self._address_of) > self.bounds.in_all:
            self._break(next(iter(self._address_of)))

    def closed(self, descriptor: int) -> None:
        """The connection is gone, or something came over it: it is not half open any more."""
        address = self._address_of.pop(descriptor, None)
        if address is None:
            return
        same = self._by_address[address]
        del same[descriptor]
        if not same:
            del self._by_address[address]

    def _break(self, descriptor: int) -> None:
        self.closed(descriptor)
        self.num_broken += 1
        self.break_it(descriptor)
