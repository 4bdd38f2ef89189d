"""CURVE key pairs: 32 raw bytes each, with the z85 text that libzmq's tools show.

A pair is derived from one secret by HKDF-SHA256, so that a peer has one secret to keep and an invite
secret opens a door without being sent; X25519 of `cryptography` gives the same public key as libzmq.
It stores nothing and knows no sockets. Keeps X7: a secret never shows in a repr.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 pair, 32 bytes each. The public half names a peer."""

    public: bytes
    secret: bytes = field(repr=False)

    @property
    def public_z85(self) -> str:
        """The public key as 40 printable characters."""
        return z85_encode(self.public)


def curve_pair(seed: bytes, label: bytes) -> KeyPair:
    """The pair for a secret of 16 to 64 bytes; each ``label`` gives an unrelated one."""
    if not 16 <= len(seed) <= 64:
        raise ValueError(f"a seed has 16 to 64 bytes, not {len(seed)}")
    secret = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=label).derive(seed)
    public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return KeyPair(public, secret)


def random_pair() -> KeyPair:
    """A pair for one use."""
    return curve_pair(secrets.token_bytes(32), b"diloco ephemeral 1")


def short(key: bytes) -> str:
    """The first eight base32 characters, in lower case: enough to tell peers apart in a log."""
    return base64.b32encode(key)[:8].decode("ascii").lower()


def z85_encode(data: bytes) -> str:
    """ZeroMQ's base 85 of a multiple of four bytes."""
    if len(data) % 4:
        raise ValueError(f"z85 encodes multiples of 4 bytes, not {len(data)}")
    text = []
    for start in range(0, len(data), 4):
        value = int.from_bytes(data[start : start + 4], "big")
        text.append("".join(_Z85[value // 85**power % 85] for power in (4, 3, 2, 1, 0)))
    return "".join(text)


def z85_decode(text: str) -> bytes:
    """The bytes of a z85 text. Raises ValueError for anything else."""
    if len(text) % 5:
        raise ValueError(f"z85 text comes in fives, not {len(text)} characters")
    data = bytearray()
    for start in range(0, len(text), 5):
        value = 0
        for character in text[start : start + 5]:
            digit = _Z85.find(character)
            if digit < 0:
                raise ValueError(f"{character!r} is no z85 character")
            value = value * 85 + digit
        if value >> 32:
            raise ValueError("z85 text stands for more than 32 bits")
        data += value.to_bytes(4, "big")
    return bytes(data)
