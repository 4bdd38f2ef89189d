"""A member's signatures, and those of the others by the keys that the coordinator told with the roster.

It decides nothing: who is wrong is said by whoever asks. Keeps X10.
"""

from __future__ import annotations

from collections.abc import Mapping

from peers.protocol.messages import MemberIs
from peers.protocol.signing import INDEX_TAG, Signer, Verify


class MemberNotary:
    """The `Notary` of one member (`transport.collectives.proofs`)."""

    def __init__(self, signer: Signer, verify: Verify, others: Mapping[bytes, MemberIs]) -> None:
        self._signer = signer
        self._verify = verify
        self._others = others

    def sign(self, statement: bytes) -> bytes:
        """This member's word."""
        return self._signer.sign(INDEX_TAG, statement)

    def verify(self, author: bytes, statement: bytes, signature: bytes) -> bool:
        """Whether another member said that; nobody says anything who is not on the roster."""
        entry = self._others.get(author)
        return entry is not None and self._verify(entry.identity, INDEX_TAG, statement, signature)
