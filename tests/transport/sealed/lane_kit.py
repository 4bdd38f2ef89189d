"""Two ends of a sealed lane for tests, and a cipher that keeps which nonces its keys were used with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.limits import LIMITS, Limits
from transport.sealed.keys import LaneEnds, LaneKeys, agree
from transport.sealed.seals import Buffer, Opener, Sealer

LOWER, HIGHER = b"\x01" * 32, b"\xfe" * 32
RUN = b"a run"


def lane_ends(
    ours: bytes = LOWER,
    theirs: bytes = HIGHER,
    session: tuple[int, int] = (1, 0),
    peer_session: tuple[int, int] = (2, 0),
    lane: int = 1,
) -> LaneEnds:
    return LaneEnds(RUN, ours, theirs, session, peer_session, lane)


def turned(ends: LaneEnds) -> LaneEnds:
    """The same lane as the other end sees it."""
    return LaneEnds(ends.run, ends.theirs, ends.ours, ends.peer_session, ends.session, ends.lane)


def drawn(label: object) -> Iterator[bytes]:
    """What a random generator gives, the same each time."""
    number = 0
    while True:
        yield hashlib.sha256(f"{label} {number}".encode()).digest()
        number += 1


def keys_of(ends: LaneEnds, label: object = "a lane") -> LaneKeys:
    """Keys of one end of a connection that ``label`` tells from others."""
    drawing = drawn(label)
    return agree(ends, next(drawing)[:16], next(drawing), next(drawing))


class SpyCipher:
    """AES-GCM that tells of each key and nonce that something is sealed with."""

    used: list[tuple[bytes, bytes]]

    def __init__(self, key: bytes, used: list[tuple[bytes, bytes]]) -> None:
        self._key, self.used, self._real = key, used, AESGCM(key)

    def encrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: bytes | None, buf: bytearray | memoryview
    ) -> int:
        self.used.append((self._key, nonce))
        return self._real.encrypt_into(nonce, data, associated_data, buf)

    def decrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: bytes | None, buf: bytearray | memoryview
    ) -> int:
        return self._real.decrypt_into(nonce, data, associated_data, buf)


def opened_pair(keys: LaneKeys | None = None, limits: Limits = LIMITS) -> tuple[Sealer, Opener]:
    """One direction, past its empty record 0."""
    key = (keys or keys_of(lane_ends())).sending
    sealer, opener = Sealer(key, limits), Opener(key, limits)
    assert opener.is_opening(sealer.opening())
    return sealer, opener
