"""The coordinator's journal: what it decided, in order, on disk before it is said.

Entries are messages of `transport.frames`, each framed by its length and CRC, so that a torn tail
is recognised and cut off. The file is the only IO here; it is a shell and decides nothing.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.errors import JournalError
from peers.protocol import fields
from peers.protocol.manifest import Manifest, unpack_manifest
from peers.protocol.record import Record, record_in
from transport.errors import BadFrame
from transport.frames import Key, kind, pack, unpack

_FRAME_BYTES = 8
_MAX_BYTES = 4096


@kind(93)
@dataclass(frozen=True, slots=True)
class TermBegan:
    """A coordinator started: its serials are higher than those of all terms before."""

    term: fields.Term


@kind(94)
@dataclass(frozen=True, slots=True)
class PeerCertified:
    """This identity may enter, without a ticket."""

    key: Key
    name: fields.Name


@kind(88)
@dataclass(frozen=True, slots=True)
class PeerInvited:
    """This identity may enter: it came with a ticket, and has one of its places."""

    key: Key
    name: fields.Name
    invite: Key


@kind(89)
@dataclass(frozen=True, slots=True)
class PlaceGivenBack:
    """This identity was away so long that others may have its place; it may ask for one anew."""

    key: Key


@kind(90)
@dataclass(frozen=True, slots=True)
class InviteRevoked:
    """This ticket opens nothing any more."""

    key: Key


@kind(91)
@dataclass(frozen=True, slots=True)
class InviteMade:
    """This ticket lets identities in."""

    key: Key
    expires_at: fields.UnixSeconds
    uses: fields.Uses


@kind(135)
@dataclass(frozen=True, slots=True)
class IncarnationSeen:
    """This process of an identity greeted: older ones are to stop."""

    key: Key
    incarnation: fields.Incarnation


@kind(98)
@dataclass(frozen=True, slots=True)
class PeerKicked:
    """This identity may enter no more."""

    key: Key


@kind(99)
@dataclass(frozen=True, slots=True)
class RunStopped:
    """The owner ended the run before it had all its rounds."""

    rounds: fields.Rounds


@kind(95)
@dataclass(frozen=True, slots=True)
class ModelAgreed:
    """The first member's model is the run's."""

    packed: fields.Packed

    @classmethod
    def of(cls, manifest: Manifest) -> ModelAgreed:
        return cls(pack(manifest))

    def manifest(self) -> Manifest:
        """Raises `BadFrame`."""
        return unpack_manifest(self.packed)


@kind(97)
@dataclass(frozen=True, slots=True)
class RunBegan:
    """The seed's state is the run's first; `GENESIS` when it was lost before anything built on it."""

    head: fields.Head


@kind(96)
@dataclass(frozen=True, slots=True)
class CommitWritten:
    """A commit record."""

    packed: fields.Packed

    @classmethod
    def of(cls, record: Record) -> CommitWritten:
        return cls(pack(record))

    def commit(self) -> Record:
        """Raises `BadFrame`."""
        return record_in(self.packed)


class Journal:
    """An append-only file. Every append is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: what could not be written must not come later by itself.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (it stays open as long as the run)
        self._whole_bytes: int | None = None
        """Where the last whole entry ends, if an append failed and its rest is perhaps there still."""
        os.chmod(path, 0o600)

    def entries(self) -> list[Any]:
        """Everything that was decided. A torn last entry, as a crash leaves it, is cut off."""
        self._file.seek(0)
        data = self._file.read()
        found: list[Any] = []
        at = 0
        while at + _FRAME_BYTES <= len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            body = data[at + _FRAME_BYTES : at + _FRAME_BYTES + size]
            crc = int.from_bytes(data[at + 4 : at + _FRAME_BYTES], "big")
            if size > _MAX_BYTES or len(body) < size or zlib.crc32(body) != crc:
                break
            try:
                found.append(unpack(body))
            except BadFrame as error:
                detail = f"{self._path} holds something that this version cannot read: {error}"
                raise JournalError(detail) from None
            at += _FRAME_BYTES + size
        if at < len(data):
            self._cut(at, len(data))
        return found

    def _cut(self, at: int, size: int) -> None:
        # Only the last entry can be torn; more garbage than one entry is damage, not a crash.
        if size - at > _MAX_BYTES + _FRAME_BYTES:
            raise JournalError(f"{self._path} is damaged at byte {at} of {size}: restore it from a copy")
        self._file.truncate(at)

    def append(self, entry: bytes) -> None:
        """Write one entry and wait until the disk has it. Raises OSError (a full disk, say): then the entry
        is not in the journal, and may be appended again."""
        self._cut_rest()
        frame = len(entry).to_bytes(4, "big") + zlib.crc32(entry).to_bytes(4, "big") + entry
        self._whole_bytes = self._file.seek(0, os.SEEK_END)
        try:
            self._write(frame)
        except OSError:
            with suppress(OSError):  # else before the next one
                self._cut_rest()
            raise
        self._whole_bytes = None

    def _write(self, frame: bytes) -> None:
        while frame:
            frame = frame[self._file.write(frame) :]
        os.fsync(self._file.fileno())

    def _cut_rest(self) -> None:
        if self._whole_bytes is not None:
            os.ftruncate(self._file.fileno(), self._whole_bytes)
            self._whole_bytes = None

    def close(self) -> None:
        self._file.close()
