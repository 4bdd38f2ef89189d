"""Sealing and opening the records of one direction of one connection, with AES-256-GCM.

The nonce is a counter of 96 bits: implicit, never sent, never reset. So a record that was changed, dropped,
doubled, put elsewhere, of another lane or sent back has a wrong tag, and a wrong tag ends the lane. The
header has a seal of its own: it is known to be right before anybody looks at a length or a place in it.
After 2^16 records the key is replaced by one that follows from it, and the old one is dropped.

Record 0 is empty, and its tag is what an end shows to prove that it has the key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.errors import BadMessage, BadRecord
from transport.limits import LIMITS, Limits
from transport.sealed.keys import next_key
from transport.sealed.records import (
    HEADER_BYTES,
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    Record,
    parse,
)

RATCHET_RECORDS = 1 << 16
_NONCE_BYTES = 12
Buffer = bytes | bytearray | memoryview


class Cipher(Protocol):
    """What `AESGCM` does."""

    def encrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: bytes | None, buf: bytearray | memoryview
    ) -> int: ...

    def decrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: bytes | None, buf: bytearray | memoryview
    ) -> int: ...


CipherOf = Callable[[bytes], Cipher]


class _Direction:
    """The key and the counter of one direction."""

    __slots__ = ("_cipher_of", "_key", "_num_records", "_num_seals", "cipher")

    def __init__(self, key: bytes, cipher_of: CipherOf) -> None:
        self._key, self._cipher_of = key, cipher_of
        self._num_seals = self._num_records = 0
        self.cipher = cipher_of(key)

    @property
    def is_fresh(self) -> bool:
        """Whether record 0 is still to come."""
        return self._num_seals == 0

    def nonce(self) -> bytes:
        """The next one."""
        nonce = self._num_seals.to_bytes(_NONCE_BYTES, "big")
        self._num_seals += 1
        return nonce

    def record_ends(self) -> None:
        self._num_records += 1
        if self._num_records % RATCHET_RECORDS == 0:
            self._key = next_key(self._key)
            self.cipher = self._cipher_of(self._key)


class Sealer:
    """What we send over one connection; one thread at a time."""

    __slots__ = ("_direction", "_limits", "num_frames")

    def __init__(self, key: bytes, limits: Limits = LIMITS, cipher_of: CipherOf = AESGCM) -> None:
        self.num_frames = 0
        """Records so far, but for the empty one."""
        self._limits = limits
        self._direction = _Direction(key, cipher_of)

    def opening(self) -> bytes:
        """The tag of the empty record 0, which comes before all others, once."""
        assert self._direction.is_fresh, "a connection is opened once"
        tag = bytearray(TAG_BYTES)
        self._seal(b"", memoryview(tag))
        self._direction.record_ends()
        return bytes(tag)

    def seal(self, record: Record, prefix: bytes, payload: Buffer | None, into: memoryview) -> int:
        """Put the record at the start of ``into``, and return its size. ``into`` has room for
        `Record.sealed_bytes`; the lengths are those that the record names."""
        assert not self._direction.is_fresh, "record 0 comes first"
        at = SEALED_HEADER_BYTES
        self._seal(record.pack(), into[:at])
        assert len(prefix) == record.prefix_bytes <= self._limits.header_bytes
        self._seal(prefix, into[at : at + len(prefix) + TAG_BYTES])
        at += len(prefix) + TAG_BYTES
        if record.payload_bytes is not None:
            assert payload is not None
            plain = memoryview(payload).cast("B")
            assert len(plain) == record.payload_bytes <= self._limits.payload_bytes
            self._seal(plain, into[at : at + len(plain) + TAG_BYTES])
            at += len(plain) + TAG_BYTES
        self._direction.record_ends()
        self.num_frames += 1
        return at

    def _seal(self, plain: Buffer, into: memoryview) -> None:
        self._direction.cipher.encrypt_into(self._direction.nonce(), plain, None, into)


class Opener:
    """What comes over one connection; one thread at a time. After an error it opens nothing more."""

    __slots__ = ("_direction", "_is_dead", "_limits", "_plain", "_wants", "num_frames")

    def __init__(self, key: bytes, limits: Limits = LIMITS, cipher_of: CipherOf = AESGCM) -> None:
        self.num_frames = 0
        """Whole records so far, but for the empty one."""
        self._limits = limits
        self._direction = _Direction(key, cipher_of)
        self._plain = bytearray(HEADER_BYTES)
        self._is_dead = False
        self._wants: list[int] = []
        """Sealed bytes of what still belongs to the present record."""

    def is_opening(self, tag: bytes) -> bool:
        """Whether that is the empty record 0 of the other end; asked once, before anything else."""
        assert self._direction.is_fresh, "a connection is opened once"
        try:
            self._open(tag, memoryview(bytearray(0)))
        except BadRecord:
            return False
        self._direction.record_ends()
        return True

    def header(self, sealed: Buffer) -> Record:
        """The next record. Raises `BadRecord`, and `BadMessage` for one that the other end itself made
        wrong."""
        if self._is_dead:
            self._die()
        assert not self._direction.is_fresh, "record 0 comes first"
        assert not self._wants, "the record before is not done"
        assert len(sealed) == SEALED_HEADER_BYTES
        self._open(sealed, memoryview(self._plain))
        try:
            record = parse(self._plain, self._limits)
        except BadMessage:
            self._is_dead = True
            raise
        self._wants = record.parts
        return record

    def prefix(self, sealed: Buffer) -> bytes:
        """The msgpack header of the present record. Raises `BadRecord`."""
        plain = bytearray(len(sealed) - TAG_BYTES)
        self._take(sealed, memoryview(plain))
        return bytes(plain)

    def payload(self, sealed: Buffer, into: memoryview) -> None:
        """Decrypt the payload of the present record to where it belongs, of exactly its size. Raises
        `BadRecord`, and then ``into`` may hold anything."""
        self._take(sealed, into)

    def _take(self, sealed: Buffer, into: memoryview) -> None:
        if self._is_dead:
            self._die()
        assert self._wants, "the record has no more parts"
        assert len(sealed) == self._wants[0], "that is not all of it"
        self._open(sealed, into)
        del self._wants[0]
        if not self._wants:
            self._direction.record_ends()
            self.num_frames += 1

    def _open(self, sealed: Buffer, into: memoryview) -> None:
        if self._is_dead:
            self._die()
        try:
            self._direction.cipher.decrypt_into(self._direction.nonce(), sealed, None, into)
        except InvalidTag:
            self._die()

    def _die(self) -> NoReturn:
        self._is_dead = True
        raise BadRecord("what came over a bulk lane is not what the other end sent") from None
