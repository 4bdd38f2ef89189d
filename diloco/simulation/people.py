"""Who is in a simulated swarm: identities, what joiners say at the door, and how fast each peer computes.

Identities and signatures are the production ones, derived from fixed seeds; paces are drawn from named
streams of the run's seed. Knows no network.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from functools import lru_cache

from peers.admission import Door, Invite
from peers.card import CARD_TAG, Card
from peers.identity import Identity
from peers.messages import PROTOCOL, Knock
from peers.ticket import invite_pair
from transport.frames import pack
from transport.simlinks import Access

HOST = "host"
_RUN = hashlib.sha256(b"simulated run").digest()[:16]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long inner steps take, in seconds of virtual time."""

    step_s: float = 1.0
    jitter: float = 0.0
    """Standard deviation of the logarithm of a step's duration, drawn anew for each; the mean stays."""
    drift: float = 0.0
    """Standard deviation, after an hour, of the logarithm of the pace, which wanders."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer, over all its lives."""

    name: str
    access: Access
    pace: Pace = Pace()
    tokens_per_step: int = 1
    region: str = ""
    joins_at_s: float = 0.0


class Clockwork:
    """Draws the durations of one peer's steps."""

    def __init__(self, pace: Pace, rng: random.Random) -> None:
        self._pace = pace
        self._rng = rng
        self._factor = 1.0

    def durations(self, count: int) -> list[float]:
        """Seconds that each of the next steps takes."""
        step_s, jitter = self._pace.step_s * self._factor, self._pace.jitter
        if jitter:
            least = step_s * math.exp(-jitter * jitter / 2)
            durations = [least * math.exp(jitter * self._rng.gauss(0.0, 1.0)) for _ in range(count)]
        else:
            durations = [step_s] * count
        if self._pace.drift:
            hours = sum(durations) / 3600
            self._factor *= math.exp(self._pace.drift * math.sqrt(hours) * self._rng.gauss(0.0, 1.0))
        return durations


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
    return Door(_RUN, b"{}", settings_digest, {invite_key(): Invite(invite_key(), math.inf)})
