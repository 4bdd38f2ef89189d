"""The keys of one connection of one lane, agreed over a link that is encrypted and authenticated already.

Each end draws a secret and tells it to the other over the control connection (CURVE), so whoever has both is
one of the two. HKDF binds the keys to the run, to both ends and their sessions, to the lane and to the id of
this connection: **keys belong to one connection and are never carried to another**, for a counter that began
again under a key that was used would break AES-GCM. Keeps X7: a secret never shows in a repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

SECRET_BYTES = 32
ID_BYTES = 16
KEY_BYTES = 32
_INFO = b"diloco lane 1"
_NEXT = b"next"

Session = tuple[int, int]
"""Incarnation and generation of one end of a link; see `transport.link.messages`."""


@dataclass(frozen=True, slots=True)
class LaneEnds:
    """Between whom a lane is, as one of the two ends sees it."""

    run: bytes
    ours: bytes
    theirs: bytes
    """CURVE public keys."""
    session: Session
    """Ours."""
    peer_session: Session
    lane: int


@dataclass(frozen=True, slots=True)
class LaneKeys:
    """One AES-256-GCM key for each direction of one connection."""

    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)


def agree(ends: LaneEnds, connection: bytes, asked: bytes, offered: bytes) -> LaneKeys:
    """The keys of the connection with this id, from the secret of who asked for it and of who offered it.
    Both ends get the same two, each the other's the other way round."""
    if len(asked) != SECRET_BYTES or len(offered) != SECRET_BYTES or len(connection) != ID_BYTES:
        raise ValueError("a secret has 32 bytes, and the id of a connection 16")
    is_lower = ends.ours < ends.theirs
    low = (ends.ours, ends.session) if is_lower else (ends.theirs, ends.peer_session)
    high = (ends.theirs, ends.peer_session) if is_lower else (ends.ours, ends.session)
    named = [ends.run, low[0], high[0], _packed(low[1]), _packed(high[1]), bytes([ends.lane]), connection]
    # Every part says its length: two different lists never give the same bytes.
    info = _INFO + b"".join(bytes([len(part)]) + part for part in named)
    both = HKDF(SHA256(), 2 * KEY_BYTES, salt=None, info=info).derive(asked + offered)
    upward, downward = both[:KEY_BYTES], both[KEY_BYTES:]
    return LaneKeys(upward, downward) if is_lower else LaneKeys(downward, upward)


def next_key(key: bytes) -> bytes:
    """The key that follows; from it nobody gets back to this one."""
    return HKDFExpand(SHA256(), KEY_BYTES, _NEXT).derive(key)


def _packed(session: Session) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in session)
