"""Bytes and frames per peer, direction and purpose, with retransmissions apart (R2).

Filled by the driver's thread and read by any other. The table is bounded: above `MAX_PEERS` the peer
that came first is folded into the entry of no name, so that totals stay right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["sent", "received"]
MAX_PEERS = 256
OTHERS = b""
"""Stands for knocks, and for peers that were folded."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the wire, headers and payloads, without the framing of libzmq and TCP.
    The ``again`` part is not contained in the rest."""

    frames: int = 0
    size_bytes: int = 0
    again_frames: int = 0
    again_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.frames + other.frames,
            self.size_bytes + other.size_bytes,
            self.again_frames + other.again_frames,
            self.again_bytes + other.again_bytes,
        )


_NOTHING = Traffic()


class Counters:
    """The byte counters of one driver: one thread adds, any thread reads."""

    def __init__(self) -> None:
        self._table: dict[tuple[bytes, Direction, str], Traffic] = {}
        self._peers: dict[bytes, None] = {}

    def add(
        self, peer: bytes, direction: Direction, purpose: str, size_bytes: int, again: bool = False
    ) -> None:
        """Count one frame."""
        if peer not in self._peers and peer != OTHERS:
            self._peers[peer] = None
            if len(self._peers) > MAX_PEERS:
                self._fold(next(iter(self._peers)))
        key = (peer, direction, purpose)
        old = self._table.get(key, _NOTHING)
        frames, total = old.frames, old.size_bytes
        if again:
            self._table[key] = Traffic(frames, total, old.again_frames + 1, old.again_bytes + size_bytes)
        else:
            self._table[key] = Traffic(frames + 1, total + size_bytes, old.again_frames, old.again_bytes)

    def snapshot(self) -> dict[tuple[bytes, Direction, str], Traffic]:
        """All counts so far by (peer, direction, purpose)."""
        # Entries are immutable and a dict is copied in one step, so no lock is needed.
        return self._table.copy()

    def total(self, direction: Direction) -> Traffic:
        """The sum over peers and purposes."""
        counts = (count for key, count in self.snapshot().items() if key[1] == direction)
        return sum(counts, Traffic())

    def _fold(self, peer: bytes) -> None:
        del self._peers[peer]
        for key in [key for key in self._table if key[0] == peer]:
            others = OTHERS, key[1], key[2]
            self._table[others] = self._table.get(others, _NOTHING) + self._table.pop(key)
