"""What a member holds when it begins: the whole shared state at one head, as a checkpoint has it.

Data only. Whoever begins with it enters with that head, and is sent the records that follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """The state behind one record."""

    head: bytes
    index: int
    """Of the head's record; 0 for the run's first state."""
    versions: tuple[bytes, ...]
    """By fragment: the record that moved it last."""
    digests: tuple[bytes, ...]
    """By fragment: the digest of its state, as `peers.protocol.naming.StateNamed` tells it."""
    record: bytes = b""
    """The head's record, packed, where it is known."""
    checks: tuple[bytes, ...] = ()
    """By fragment: the check of its state, as `peers.protocol.messages.Applied` tells it."""
    steps: int | None = None
    """Of a run that gossips: outer steps of this replica since the head, which is the run's first state."""

    @property
    def place(self) -> int:
        """How far along it is: the index of its record, or with gossip its outer steps."""
        return self.index if self.steps is None else self.steps

    def digest(self) -> bytes:
        """One name for all of it, which everybody who holds this state at this head gives."""
        return state_name(self.index, self.head, self.versions, self.digests)


def state_name(index: int, head: bytes, versions: Sequence[bytes], digests: Sequence[bytes]) -> bytes:
    """SHA-256 over a head, and over versions and digests by fragment."""
    parts = [b"diloco held\0", index.to_bytes(8, "big"), head, *versions, *digests]
    return hashlib.sha256(b"".join(parts)).digest()
