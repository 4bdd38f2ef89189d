"""Shares of states on this worker's disk, as a member tells of them and hands them out.

A piece is read when it is asked for, by the network's thread, and whoever asked checks it. Needs no torch:
what is on the disk is found by `share_files`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peers.protocol.application import StateBlob
from peers.protocol.shares import Part
from transport.disk import Disk
from transport.effects import Payload
from transport.limits import LIMITS


@dataclass(frozen=True, slots=True)
class StoredState:
    """One fragment's state in a file (`peers.protocol.application.StateBlob`)."""

    disk: Disk
    path: str
    start: int
    """Where its bytes begin in the file."""
    size: int
    digests: list[bytes]
    """Of all pieces, those of frozen parameters that the file only names among them."""
    frozen: Callable[[int, int], Payload]
    """Bytes that the file only names, from an offset in the state."""
    piece_bytes: int = LIMITS.payload_bytes

    def piece(self, index: int) -> Payload:
        """Empty if it cannot be read."""
        at = index * self.piece_bytes
        if at >= self.size:
            return self.frozen(at, self.piece_bytes)
        try:
            return self.disk.read(self.path, self.start + at, min(self.piece_bytes, self.size - at))
        except OSError:
            return b""


class Parts:
    """All shares on one disk (`peers.protocol.shares.Stored`)."""

    def __init__(self) -> None:
        self._parts: tuple[Part, ...] = ()
        self._states: dict[tuple[int, bytes], StateBlob] = {}

    def add(self, part: Part, states: dict[int, StateBlob]) -> None:
        """One more, older than all before; ``states`` by fragment."""
        self._parts += (part,)
        for fragment, state in states.items():
            self._states[fragment, part.held.digests[fragment]] = state

    def parts(self) -> list[Part]:
        """Those that are still there."""
        return [part for part in self._parts if all(self._is_there(part, f) for f in part.fragments)]

    def _is_there(self, part: Part, fragment: int) -> bool:
        state = self._states[fragment, part.held.digests[fragment]]
        return state.piece(0) != b""

    def find(self, fragment: int, blob: bytes) -> StateBlob | None:
        return self._states.get((fragment, blob))
