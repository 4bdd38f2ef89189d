"""What a member asks of the program that trains: numbers, and nothing else.

`diloco` implements it over tensors, the simulator over small vectors or phantoms. The driver's thread
calls it, so an implementation guards what it shares with the training thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from transport.collectives.fetch import AtHand, BlobBuffer
from transport.collectives.reducer import Reducer
from transport.effects import EncodedResult, Payload


class StateBlob(Protocol):
    """A snapshot of one fragment's state that does not change while it is held."""

    @property
    def digests(self) -> list[bytes]:
        """That of each piece."""

    def piece(self, index: int) -> Payload:
        """One piece; all but the last have the size of `piece_sizes`."""


class Application(Protocol):
    """The training program below a member."""

    def receiver(self, fragment: int) -> Reducer:
        """To decode a result to which this member contributed nothing."""

    def state_buffer(self, fragment: int) -> bytearray | BlobBuffer:
        """As long as a fragment's state: where one that is fetched is put together."""

    def state_at_hand(self, fragment: int) -> AtHand | None:
        """The fragment's state as it is now, of which much may be alike in one that is to be fetched."""

    def state_blob(self, fragment: int, blob: bytes) -> StateBlob | None:
        """The snapshot with that digest, if the fragment is at it now, or was before the last commit and that
        is kept."""

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        """What finds the digest of the state with that check, if the fragment is at it now, or was before the
        last commit and that is kept. It hashes the whole, so it is for another thread; the state stays as it
        is until then."""

    def kept_result(self, result: bytes) -> EncodedResult | None:
        """The result of that name, if this worker's disk has it; it need not have been checked."""


def piece_sizes(size: int, piece_bytes: int) -> list[int]:
    """How a blob of ``size`` bytes is cut."""
    whole, rest = divmod(size, piece_bytes)
    return [piece_bytes] * whole + ([rest] if rest or not whole else [])
