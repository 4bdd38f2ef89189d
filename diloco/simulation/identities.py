"""Who is in a simulated swarm: identities, and what joiners say at the door.

Identities and signatures are the production ones, derived from names, so that every run has the same ones.
Knows no network.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

from peers.admission.card import CARD_TAG, Card
from peers.admission.door import Door, Invite
from peers.admission.identity import Identity
from peers.admission.ticket import invite_pair
from peers.protocol.messages import PROTOCOL, Knock
from transport.frames import pack
from transport.limits import LIMITS

HOST = "host"
_RUN = hashlib.sha256(b"simulated run").digest()[:16]


@lru_cache(4096)
def identity_of(name: str) -> Identity:
    """Who a simulated peer is."""
    return Identity(hashlib.sha256(b"simulated peer " + name.encode()).digest())


@lru_cache(4096)
def key_of(name: str) -> bytes:
    """The transport key of a simulated peer."""
    return identity_of(name).keys.public


def invite_key() -> bytes:
    """The key that the ticket's secret derives."""
    return invite_pair(hashlib.sha256(b"ticket").digest()[:16]).public


@lru_cache(4096)
def knock_of(name: str) -> bytes:
    """How a peer asks to be let in: its card, signed."""
    identity = identity_of(name)
    card = pack(Card(_RUN, identity.public, identity.keys.public, name))
    return pack(Knock(PROTOCOL, card, identity.sign(CARD_TAG, card)))


def open_door(settings_digest: bytes) -> Door:
    """The host's door; its ticket does not expire."""
    invite = Invite(invite_key(), math.inf, uses=16 * LIMITS.gossip_members)
    return Door(_RUN, b"{}", settings_digest, {invite.key: invite})
