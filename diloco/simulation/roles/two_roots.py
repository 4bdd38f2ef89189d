"""A signer that, of a statement about one root, makes the same statement about another one.

An honest author signs each statement once, about the one index that it has. This one keeps what it signed, so
that a chunk that was changed on its way can be vouched for too: under the root to which its path leads now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peers.protocol.signing import INDEX_TAG, Signer
from transport.collectives.proofs import GROUP, Place, root_of
from transport.digests import digest_of
from transport.effects import Payload
from transport.errors import BadFrame
from transport.frames import pack_items, unpack_items

_KEPT = 256
"""Statements that are remembered; the oldest are forgotten."""


class KeepsStatements:
    """One identity that remembers what it signed."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._statements: dict[bytes, bytes] = {}
        """By signature."""

    @property
    def public(self) -> bytes:
        """The key that checks what it signs."""
        return self._signer.public

    def sign(self, tag: bytes, data: bytes) -> bytes:
        """Sign, and remember what was said about an index."""
        signature = self._signer.sign(tag, data)
        if tag == INDEX_TAG:
            self._statements[signature] = data
            while len(self._statements) > _KEPT:
                del self._statements[next(iter(self._statements))]
        return signature

    def sign_another(
        self, signature: bytes, path: Sequence[bytes], true: Payload, other: Payload
    ) -> bytes | None:
        """The signature of the same statement about the root to which ``path`` leads from another payload;
        None for what was not signed here."""
        statement = self._statements.get(signature)
        if statement is None:
            return None
        *about, root = unpack_items(statement)
        place = next((each for each in _places() if _root(true, each, path) == root), None)
        if place is None:
            return None
        return self._signer.sign(INDEX_TAG, pack_items([*about, root_of(digest_of(other), place, path)]))


def _places() -> Iterator[Place]:
    return (Place(0, leaf, count) for count in range(1, GROUP + 1) for leaf in range(count))


def _root(payload: Payload, place: Place, path: Sequence[bytes]) -> bytes | None:
    try:
        return root_of(digest_of(payload), place, path)
    except BadFrame:
        return None
