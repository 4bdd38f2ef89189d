"""Names of bytes: SHA-256 of a payload, of a phantom, and of many pieces at once.

Pure; knows nothing of who hashes what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from transport.effects import Payload, Phantom


def digest_of(payload: Payload) -> bytes:
    """SHA-256 of the bytes; of a phantom, the digest that it carries."""
    if isinstance(payload, Phantom):
        return _phantom_digest(payload.digest)
    return hashlib.sha256(payload).digest()


@lru_cache(4096)
def _phantom_digest(digest: bytes) -> bytes:
    """Everyone in an exchange asks for the same."""
    return hashlib.sha256(b"phantom" + digest).digest()


def tree_digest(digests: Sequence[bytes]) -> bytes:
    """One name for many pieces: SHA-256 over their digests, so that each piece can be checked alone."""
    return hashlib.sha256(b"".join(digests)).digest()
