"""Signatures of members, as members and coordinator see them: somebody hands in who can make and check them.

Knows tags and what one run's statements are about; the keys are those of `peers.admission.identity`.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

INDEX_TAG = b"diloco index 1"
"""Under which a member signs what it will send in a proved round."""
NO_IDENTITY = bytes(32)
"""In place of the key of one that signs nothing."""


class Signer(Protocol):
    """One identity."""

    @property
    def public(self) -> bytes:
        """The Ed25519 key that checks what it signs."""
        ...

    def sign(self, tag: bytes, data: bytes) -> bytes:
        """64 bytes, worth nothing under another ``tag``."""
        ...


class Verify(Protocol):
    """Checks signatures."""

    def __call__(self, public: bytes, tag: bytes, data: bytes, signature: bytes) -> bool:
        """Whether the holder of ``public`` signed ``data`` under ``tag``."""
        ...


def run_of(coordinator: bytes, settings: bytes) -> bytes:
    """What statements name as their run."""
    return hashlib.sha256(b"run" + coordinator + settings).digest()
