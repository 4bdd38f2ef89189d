"""How a bulk connection shows that it was offered: 32 bytes, good for one connection and some seconds.

Over the control connection one end asks for a lane and the other offers it with a random id. Whoever dials
says the id and the tag of an empty record under the key that both agreed on; the answer is the tag of the
other direction. An id is burnt when it is said, whatever comes of it: neither a copy nor the original opens
anything after that. The table of offers holds one for each lane of a peer. Keeps X1 and X2.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.limits import LIMITS, Limits
from transport.sealed.headers import Sessions
from transport.sealed.keys import ID_BYTES, SECRET_BYTES, LaneEnds, LaneKeys, agree
from transport.sealed.messages import LaneAsk, LaneOffer, name_of
from transport.sealed.records import TAG_BYTES
from transport.sealed.seals import CipherOf, Opener, Sealer

OPENING_BYTES = ID_BYTES + TAG_BYTES
TokenBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class OpenedLane:
    """A connection that showed the right opening."""

    peer: bytes
    lane: int
    sessions: Sessions
    """Ours and the peer's."""
    sealer: Sealer
    opener: Opener


@dataclass(frozen=True, slots=True)
class _Offer:
    ends: LaneEnds
    until: float
    keys: LaneKeys = field(repr=False)


class Offers:
    """What this end has offered and nobody has opened yet."""

    def __init__(
        self,
        limits: Limits = LIMITS,
        token_bytes: TokenBytes = secrets.token_bytes,
        cipher_of: CipherOf = AESGCM,
    ) -> None:
        self._limits, self._token_bytes, self._cipher_of = limits, token_bytes, cipher_of
        self._offers: dict[bytes, _Offer] = {}
        self._ids: dict[tuple[bytes, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._offers)

    def offer(self, now: float, ends: LaneEnds, ask: LaneAsk, port: int) -> LaneOffer:
        """Offer the lane that was asked for; what was offered for it before is void."""
        assert ends.lane == ask.lane, "that is another lane"
        self._drop_late(now)
        self._burn(self._ids.get((ends.theirs, ends.lane)))
        connection, secret = self._token_bytes(ID_BYTES), self._token_bytes(SECRET_BYTES)
        keys = agree(ends, connection, ask.secret, secret)
        self._offers[connection] = _Offer(ends, now + self._limits.lane_offer_s, keys)
        self._ids[ends.theirs, ends.lane] = connection
        return LaneOffer(ask.lane, port, connection, secret, name_of(ask))

    def take(self, now: float, opening: bytes) -> OpenedLane | None:
        """What a connection opens with these bytes: it is answered with `Sealer.opening`, and then the lane
        is up. None: it is closed without a word."""
        self._drop_late(now)
        found = self._burn(opening[:ID_BYTES])
        if found is None or len(opening) != OPENING_BYTES:
            return None
        sealer, opener = _both(found.keys, self._limits, self._cipher_of)
        if not opener.is_opening(opening[ID_BYTES:]):
            return None
        ends = found.ends
        return OpenedLane(ends.theirs, ends.lane, (ends.session, ends.peer_session), sealer, opener)

    def forget(self, peer: bytes) -> None:
        """A session with this peer has ended: nothing that was offered in it may be opened."""
        for key in [key for key in self._ids if key[0] == peer]:
            self._burn(self._ids[key])

    def _drop_late(self, now: float) -> None:
        for connection in [each for each, offer in self._offers.items() if offer.until <= now]:
            self._burn(connection)

    def _burn(self, connection: bytes | None) -> _Offer | None:
        found = self._offers.pop(connection, None) if connection is not None else None
        if found is not None:
            del self._ids[found.ends.theirs, found.ends.lane]
        return found


def ask(lane: int, token_bytes: TokenBytes = secrets.token_bytes) -> LaneAsk:
    """Ask for a lane; keep it until the offer comes."""
    return LaneAsk(lane, token_bytes(SECRET_BYTES))


def accept(
    ends: LaneEnds,
    asked: LaneAsk,
    offer: LaneOffer,
    limits: Limits = LIMITS,
    cipher_of: CipherOf = AESGCM,
) -> tuple[bytes, Sealer, Opener]:
    """What to say first over the connection that was offered. The lane is up once the opener has taken the
    answer (`Opener.is_opening`)."""
    assert ends.lane == asked.lane == offer.lane, "that is another lane"
    keys = agree(ends, offer.connection, asked.secret, offer.secret)
    sealer, opener = _both(keys, limits, cipher_of)
    return offer.connection + sealer.opening(), sealer, opener


def _both(keys: LaneKeys, limits: Limits, cipher_of: CipherOf) -> tuple[Sealer, Opener]:
    return Sealer(keys.sending, limits, cipher_of), Opener(keys.receiving, limits, cipher_of)
