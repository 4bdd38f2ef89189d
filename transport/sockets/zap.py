"""Who may connect: the answer to libzmq's question about one CURVE handshake (RFC 27).

Pure: it sees the parts of a request and a function that knows keys; the socket is the driver's.
Keeps X1: what is not clearly admitted is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

DOMAIN = b"diloco"
ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
HELD = 500
"""The status that a caller sees who knocks while the host decides nothing."""
_NOT_NOW = {"later": b"300", "held": str(HELD).encode()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reply's parts, and for whom it was given."""

    reply: list[bytes]
    kind: str | None
    key: bytes
    address: str


def answer(request: Sequence[bytes], admits: Callable[[bytes], str | None]) -> Verdict:
    """Admit the key of a request, as the User-Id of its frames in hex, or refuse it.

    ``admits`` names the kind of a key that may connect. The kind "later" refuses for now, without a
    reason that the other side sees, and "held" says that nothing is decided here just now.
    """
    number = request[1] if len(request) > 1 else b""
    if len(request) != 7 or request[0] != _VERSION or request[2] != DOMAIN or request[5] != b"CURVE":
        return Verdict(_reply(number, b"500"), None, b"", "")
    key, address = request[6], request[3].decode("ascii", "replace")
    kind = admits(key) if len(key) == 32 else None
    if kind is None:
        return Verdict(_reply(number, b"400"), None, key, address)
    if kind in _NOT_NOW:
        return Verdict(_reply(number, _NOT_NOW[kind]), None, key, address)
    return Verdict(_reply(number, b"200", key.hex().encode("ascii")), kind, key, address)


def _reply(number: bytes, status: bytes, user: bytes = b"") -> list[bytes]:
    return [_VERSION, number, status, b"", user, b""]
