"""A peer's card: its identity vouches for its transport key.

Signed with Ed25519 over a domain tag and the exact bytes, so that a card is about one run and
nothing else. Checking is pure; making one needs the identity (`peers.admission.identity`).
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.admission.identity import verify
from peers.protocol.fields import Name, RunId
from transport.errors import BadFrame
from transport.frames import Key, kind, unpack

CARD_TAG = b"diloco card 1"


@kind(45)
@dataclass(frozen=True, slots=True)
class Card:
    """Who asks to be admitted, to which run."""

    run: RunId
    identity: Key
    """Ed25519 public key."""
    transport: Key
    """CURVE public key: the name of the peer on every link."""
    name: Name


def checked_card(packed: bytes, signature: bytes, run: bytes) -> Card:
    """The card, if its identity signed it and it is about this run. Raises `BadFrame`."""
    card = unpack(packed)
    if not isinstance(card, Card):
        raise BadFrame("that is no card")
    if card.run != run:
        raise BadFrame("the card is about another run")
    if not verify(card.identity, CARD_TAG, packed, signature):
        raise BadFrame("the card's signature is wrong")
    return card
