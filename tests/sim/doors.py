"""The door of a simulated swarm: who everyone is, what honest joiners say there, and what strangers try.

Identities, invites and signatures are the production ones, derived from fixed seeds. A stranger holds no
live invite, or poses as somebody whose card it cannot sign; whatever it tries, nobody hears of it (X1).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from peers.admission.card import CARD_TAG, Card
from peers.admission.door import Door, Invite
from peers.admission.identity import Identity
from peers.admission.ticket import invite_pair
from peers.protocol.messages import PROTOCOL, Knock
from transport.effects import Connect, Effect, Payload
from transport.frames import pack

SETTINGS = hashlib.sha256(b"settings").digest()
RUN = hashlib.sha256(b"run").digest()[:16]
HOST = 255
STRANGER = 254
MAX_WORKERS = 40
"""Of one swarm, for so many have a place with the ticket."""


@lru_cache(None)
def identity_of(index: int) -> Identity:
    """Who a simulated peer is; 255 is the host, 254 is let in by nobody."""
    return Identity(hashlib.sha256(b"peer" + bytes([index])).digest())


@lru_cache(None)
def key_of(index: int) -> bytes:
    """The transport key of a simulated peer."""
    return identity_of(index).keys.public


@lru_cache(None)
def invite_of(name: str) -> bytes:
    """The key that the secret of an invite derives."""
    return invite_pair(hashlib.sha256(name.encode()).digest()[:16]).public


@lru_cache(None)
def knock_of(index: int, run: bytes = RUN, signer: int | None = None) -> bytes:
    """How a peer asks to be let in: its card, signed by its identity or by another one's."""
    identity = identity_of(index)
    card = pack(Card(run, identity.public, identity.keys.public, f"w{index}"))
    signature = identity_of(index if signer is None else signer).sign(CARD_TAG, card)
    return pack(Knock(PROTOCOL, card, signature))


def open_door() -> Door:
    """The host's door: one invite is live, one has expired, one was revoked."""
    ends = {"live": 1e9, "expired": 0.0, "revoked": 1e9}
    invites = {invite_of(name): Invite(invite_of(name), at, MAX_WORKERS) for name, at in ends.items()}
    door = Door(RUN, b"{}", SETTINGS, invites)
    door.owner = identity_of(HOST).control.public
    door.revoke(invite_of("revoked"))
    return door


def attempts() -> list[tuple[bytes, bytes]]:
    """What a stranger tries at the door: invite's key and request."""
    honest = knock_of(STRANGER)
    return [
        (invite_of("guess"), honest),
        (invite_of("expired"), honest),
        (invite_of("revoked"), honest),
        (invite_of("live"), knock_of(STRANGER, signer=HOST)),
        (invite_of("live"), knock_of(STRANGER, run=bytes(16))),
        (invite_of("live"), honest[:-1]),
    ]


class Stranger:
    """A core that dials everyone it has heard of, as if it were a member, and notes who answers."""

    def __init__(self, known: list[tuple[bytes, str]]) -> None:
        self.known = known
        self.answered: list[bytes] = []
        self.out: list[Effect] = []

    def start(self, now: float) -> None:
        self.out += [Connect(key, (address,), 1) for key, address in self.known]

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        self.answered.append(peer)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        """Nobody was ever connected."""

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        """Nobody ever dials it."""

    def refused(self, now: float, peer: bytes) -> None:
        """It dials on."""

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        self.answered.append(peer)

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        return None

    def admits(self, key: bytes) -> str | None:
        return "member"

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        """It holds nobody."""

    def tick(self, now: float) -> None:
        """It waits for nothing."""

    def deadline(self) -> float | None:
        return None

    def drain(self) -> list[Effect]:
        out, self.out = self.out, []
        return out

    def digest(self) -> str:
        return ""
