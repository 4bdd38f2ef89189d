"""Which incarnation of each identity was seen last, over the coordinator's restarts.

Of two processes with one identity the newer goes on, also if the older one is the first that a restarted
coordinator hears of (S13). An identity costs the journal one entry per `Limits.incarnation_rest_s` at most,
however often its process starts. Decides nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peers.coordinator.journal import IncarnationSeen
from peers.coordinator.outlet import Outlet
from transport.effects import NEVER
from transport.frames import pack
from transport.limits import Limits


@dataclass(slots=True)
class _Life:
    newest: int
    written: int = 0
    written_at: float = NEVER


def newest_in(entries: list[Any]) -> dict[bytes, int]:
    """The newest incarnation of each identity that a journal knows."""
    found: dict[bytes, int] = {}
    for entry in entries:
        if isinstance(entry, IncarnationSeen):
            found[entry.key] = max(entry.incarnation, found.get(entry.key, 0))
    return found


class Lives:
    """The newest process of each admitted identity."""

    def __init__(self, outlet: Outlet, limits: Limits) -> None:
        self._outlet = outlet
        self._rest_s = limits.incarnation_rest_s
        self._lives: dict[bytes, _Life] = {}

    def restore(self, entries: list[Any]) -> None:
        """Know what an earlier life of the coordinator knew."""
        for key, incarnation in newest_in(entries).items():
            self._lives[key] = _Life(incarnation, incarnation)

    def greeted(self, now: float, key: bytes, incarnation: int) -> None:
        """An admitted identity greeted with this incarnation."""
        life = self._lives.setdefault(key, _Life(incarnation))
        life.newest = max(life.newest, incarnation)
        self._write(now, key, life)

    def tick(self, now: float) -> None:
        """Write what had to wait."""
        for key, life in self._lives.items():
            self._write(now, key, life)

    def _write(self, now: float, key: bytes, life: _Life) -> None:
        if life.newest > life.written and now - life.written_at >= self._rest_s:
            self._outlet.store(pack(IncarnationSeen(key, life.newest)))
            life.written, life.written_at = life.newest, now
