"""Counts the connections that come to one listening socket, and has the kernel hold floods back.

What is let in is decided by `floods`, and done by `syn_filter`. Runs on the driver's thread. Keeps X1.
"""

from __future__ import annotations

from collections.abc import Callable

from transport.effects import Trace
from transport.floods import OTHERS, FloodOverTrace, Floods, FloodTrace
from transport.sockets.syn_filter import let_in


class FloodGate:
    """At the listening socket with this descriptor; more than ``per_second`` connections of one address are
    a flood."""

    def __init__(self, descriptor: int, per_second: int, trace: Callable[[Trace], None]) -> None:
        self._descriptor = descriptor
        self._floods = Floods(per_second)
        self._trace = trace
        self._is_flooded = False

    @property
    def due(self) -> float | None:
        """When `serve_due` has something to do."""
        return self._floods.due

    def came(self, now: float, address: str | None) -> None:
        """A connection came; from where is not known if it has gone already."""
        self._floods.came(now, address)

    def serve_due(self, now: float) -> None:
        """Decide, if it is time."""
        if not self._floods.decide(now):
            return
        shares = self._floods.shares
        is_held_back = let_in(self._descriptor, shares)
        if bool(shares) == self._is_flooded:
            return
        self._is_flooded = bool(shares)
        whence = ", ".join(sorted(shares.keys() - {OTHERS})) or "of many addresses"
        self._trace(FloodTrace(whence, is_held_back) if shares else FloodOverTrace())
