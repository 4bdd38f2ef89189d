"""The one word that a joiner needs: whom to trust, where to knock, and the secret that opens the door.

    dlc1 + base32 in lower case of: version 1 | run 16 | host key 32 | invite secret 16 | expiry 4 |
    flags 1 | number of addresses 1 | per address: length 1, text | checksum 4

The secret is never sent: both sides derive the same CURVE client pair from it. Which invites live,
and how often one may be used, the coordinator knows, not this file. Keeps X7: no repr shows a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from peers.errors import ExpiredTicket, MistypedTicket, NewerTicket, NotATicket, TicketError
from transport.addresses import ADDRESS_BYTES, valid_address
from transport.keys import KeyPair, curve_pair, short

PREFIX = "dlc1"
VERSION = 1
CLOCK_SKEW_S = 300
_MAX_TEXT = 600
_FIXED = struct.Struct(">B16s32s16sIBB")


@dataclass(frozen=True, slots=True)
class Ticket:
    """Everything that `join` needs. ``expiry`` is in unix seconds."""

    run: bytes
    host: bytes
    secret: bytes = field(repr=False)
    expiry: int
    addresses: tuple[str, ...]
    flags: int = 0

    def __post_init__(self) -> None:
        if (len(self.run), len(self.host), len(self.secret)) != (16, 32, 16):
            raise ValueError("a ticket has a run of 16, a host key of 32 and a secret of 16 bytes")
        if not (0 <= self.expiry < 1 << 32 and 0 <= self.flags < 1 << 8):
            raise ValueError("a ticket's expiry has 32 bits and its flags have 8")
        if not 1 <= len(self.addresses) <= 3:
            raise ValueError(f"a ticket has 1 to 3 addresses, not {len(self.addresses)}")
        for address in self.addresses:
            if not valid_address(address):
                raise ValueError(
                    f"{address!r} is not like tcp://host:port with at most {ADDRESS_BYTES} characters"
                )

    def __str__(self) -> str:
        where = f"run {short(self.run)} of host {short(self.host)} at {', '.join(self.addresses)}"
        return f"ticket to {where} until {_when(self.expiry)}"

    def encode(self) -> str:
        """The word itself. It carries the secret: show it to the person who invites, log it nowhere."""
        body = _FIXED.pack(
            VERSION, self.run, self.host, self.secret, self.expiry, self.flags, len(self.addresses)
        )
        for address in self.addresses:
            text = address.encode("ascii")
            body += bytes([len(text)]) + text
        return PREFIX + _base32(body + _checksum(body))

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """The ticket that a word stands for. Raises a `TicketError`; does not look at the clock."""
        word = text.strip()
        if re.fullmatch(r"dlc[2-9][a-z2-7]{50,}", word):
            raise NewerTicket("the ticket is of a newer version; update diloco on this machine")
        if not re.fullmatch(PREFIX + r"[a-z2-7]+", word) or len(word) > _MAX_TEXT:
            raise NotATicket(f"this is no ticket: one is a single word that starts with {PREFIX}")
        return cls._from_body(_checked_body(word[len(PREFIX) :]))

    @classmethod
    def _from_body(cls, body: bytes) -> Ticket:
        if body[0] > VERSION:
            raise NewerTicket("the ticket is of a newer version; update diloco on this machine")
        try:
            _, run, host, secret, expiry, flags, count = _FIXED.unpack_from(body)
            addresses, rest = [], body[_FIXED.size :]
            for _ in range(count):
                size, address, rest = rest[0], rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
                addresses.append(address.decode("ascii"))
                if len(address) < size:
                    raise ValueError
            if body[0] != VERSION or rest:
                raise ValueError
            return cls(run, host, secret, expiry, tuple(addresses), flags)
        except (struct.error, ValueError, IndexError):
            raise NotATicket("the ticket is damaged; ask the host for a new one") from None

    def check_expiry(self, now: float) -> None:
        """Raises `ExpiredTicket` when ``now``, in unix seconds, is more than five minutes too late."""
        if now > self.expiry + CLOCK_SKEW_S:
            raise ExpiredTicket(f"the ticket expired at {_when(self.expiry)}; ask the host for a new one")


def invite_pair(secret: bytes) -> KeyPair:
    """The CURVE client pair of an invite: the host admits its public half, the joiner holds both."""
    return curve_pair(secret, b"diloco invite curve 1")


def read_ticket(argument: str, now: float | None) -> Ticket:
    """The ticket that a person named: the word, ``-`` for standard input, or ``@file``; it must not
    have expired at ``now``, in unix seconds, if one is given. Raises a `TicketError`."""
    if argument == "-":
        text = sys.stdin.readline(4096)
    elif argument.startswith("@"):
        try:
            with Path(argument[1:]).open(encoding="ascii", errors="replace") as file:
                text = file.read(4096)
        except OSError as error:
            raise TicketError(f"cannot read the ticket in {argument[1:]}: {error.strerror}") from None
    else:
        text = argument
    ticket = Ticket.parse(text)
    if now is not None:
        ticket.check_expiry(now)
    return ticket


def _checked_body(text: str) -> bytes:
    mistyped = MistypedTicket("the ticket is mistyped or cut off: copy the whole word again")
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise mistyped from None
    body, checksum = data[:-4], data[-4:]
    # The last character may have spare bits: only one spelling of a ticket is good.
    if not body or checksum != _checksum(body) or _base32(data) != text:
        raise mistyped
    return body


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"diloco ticket" + body).digest()[:4]


def _when(expiry: int) -> str:
    return datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%d %H:%M UTC")
