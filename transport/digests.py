"""Names of bytes: the digest of a payload, of a phantom, and of many pieces at once.

Which hash is for what:

- BLAKE3 names what is large: the chunks of results and the pieces of states, the trees over them, the files
  of a checkpoint, frozen parameters, and what a run begins from. It takes a third of SHA-256's time.
- SHA-256 names what is short, where time does not matter and the field's most common hash is the plainest
  choice: records and heads, statements that are signed and the nodes of their trees, keys, cards and
  tickets, settings, a manifest's own checksum.
- zlib's CRC-32 finds torn entries of journals. It protects from nobody.

Both make 32 bytes. Hashing frees the interpreter's lock. One thread hashes one piece: pieces are so small
that BLAKE3's own threads would gain nothing. Pure; knows nothing of who hashes what.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from blake3 import blake3

from transport.effects import Payload, Phantom


def digest_of(payload: Payload) -> bytes:
    """BLAKE3 of the bytes; of a phantom, the digest that it carries."""
    if isinstance(payload, Phantom):
        return _phantom_digest(payload.digest)
    return blake3(payload).digest()


@lru_cache(4096)
def _phantom_digest(digest: bytes) -> bytes:
    """Everyone in an exchange asks for the same."""
    return blake3(b"phantom" + digest).digest()


def tree_digest(digests: Sequence[bytes]) -> bytes:
    """One name for many pieces: BLAKE3 over their digests, so that each piece can be checked alone."""
    return blake3(b"".join(digests)).digest()


def hasher() -> blake3:
    """For the digest of bytes that come one after the other: it has `update`, `digest` and `hexdigest`."""
    return blake3()
