"""Connections that others opened and over which nothing came yet: how many there may be.

Whoever connects holds a descriptor of ours, and needs no key for that, until its handshake succeeds or has
run out of time (`SILENCE_S`, which libzmq keeps). A key that says nothing after that keeps its connection.
Beyond a bound for one address its oldest is broken, and beyond one for all the oldest of the address that
has most of them. So a flood from elsewhere breaks none of a member's, unless it comes from more addresses
than the bound has room for with a few each: then the oldest of all is broken. A peer with a key needs
milliseconds, and one that was unlucky dials again. State only; it owns no socket. Keeps R4 and X1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from transport.limits import Limits
from transport.sockets.kernel import Handle, address_of

FEW = 8
"""So many of one address are not broken for those of addresses that have more."""


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
    break_it: Callable[[Handle], None]
    num_broken: int = 0
    _handles: dict[int, Handle] = field(default_factory=dict)
    _heard_at: dict[int, float] = field(default_factory=dict)
    _by_address: dict[str, dict[int, None]] = field(default_factory=dict)
    _by_number: dict[int, dict[str, None]] = field(default_factory=dict)
    """Addresses by the number of their connections, so that the fullest is found at once in a flood."""

    def __len__(self) -> int:
        return len(self._handles)

    def handles(self) -> Collection[Handle]:
        """All of them."""
        return self._handles.values()

    def heard_at(self, handle: Handle) -> float:
        """When it was heard of a connection that is half open."""
        return self._heard_at[handle[0]]

    def opened(self, handle: Handle, now: float) -> None:
        """Somebody connected; an older connection is broken if there are too many."""
        descriptor, address = handle[0], address_of(handle)
        self.closed(descriptor)  # a descriptor that is given out anew belongs to nobody else any more
        self._handles[descriptor], self._heard_at[descriptor] = handle, now
        same = self._by_address.setdefault(address, {})
        self._count(address, len(same), len(same) + 1)
        same[descriptor] = None
        if len(same) > self.bounds.per_address:
            self._break(next(iter(same)))
        elif len(self._handles) > self.bounds.in_all:
            self._break(next(iter(self._of_the_fullest() or self._handles)))

    def closed(self, descriptor: int) -> None:
        """The connection is gone, or something came over it: it is not half open any more."""
        handle = self._handles.pop(descriptor, None)
        if handle is None:
            return
        address = address_of(handle)
        del self._heard_at[descriptor]
        same = self._by_address[address]
        self._count(address, len(same), len(same) - 1)
        del same[descriptor]
        if not same:
            del self._by_address[address]

    def _of_the_fullest(self) -> dict[int, None] | None:
        """Those of the address that has most of them; None if no address has more than a few."""
        most = max(self._by_number)
        return self._by_address[next(iter(self._by_number[most]))] if most > FEW else None

    def _count(self, address: str, before: int, after: int) -> None:
        """An address has one more, or one less."""
        if before:
            same = self._by_number[before]
            del same[address]
            if not same:
                del self._by_number[before]
        if after:
            self._by_number.setdefault(after, {})[address] = None

    def _break(self, descriptor: int) -> None:
        handle = self._handles[descriptor]
        self.closed(descriptor)
        self.num_broken += 1
        self.break_it(handle)
