"""Results of rounds since the oldest checkpoint, each in a file: what leads from there to the head.

    checkpoints/RUN16/results/SERIAL12-RESULT16
    checkpoints/RUN16/results/SERIAL12-HEAD16.record

A file is written before this worker says that it holds the result, so whatever was committed is on the disk
of every member that said so; it is not synced, for it need outlive the process alone. Where one could not be
written, or none are wanted, the shelf knows up to which round some are missing: it leads on only from a
checkpoint that has all of those rounds in it. Whoever reads one must check that it is what it is named for
(`peers.member.results` does). The driver's thread keeps and finds, the writer's removes. The records that
were committed are kept beside, by the training thread: a host that lost its journal cannot tell them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from threading import Lock

from peers.protocol.record import Record, record_in
from transport.digests import digest_of
from transport.disk import Disk
from transport.effects import EncodedResult, KeepResult, Payload, Phantom
from transport.errors import BadFrame
from transport.frames import pack

_NAME = re.compile(r"^(\d{12,20})-([0-9a-f]{16})$")
_RECORD = re.compile(r"^(\d{12,20})-[0-9a-f]{16}\.record$")
_NUMBER_BYTES = 4
_MAX_CHUNKS = 1 << 20


class Shelf:
    """The results of one run, whose checkpoints are in ``folder``."""

    def __init__(self, disk: Disk, folder: str, *, keeps: bool = True) -> None:
        self.keeps = keeps
        """Whether results are wanted here."""
        self.error: str | None = None
        """Why the last one that could not be written was not."""
        self._disk = disk
        self._folder = f"{folder}/results"
        self._lock = Lock()
        self._missing = 0
        """The serial of the latest round whose result this process had, and the disk has not."""
        self._serials: dict[str, int] = {}
        """By the name that a result has in its file's name."""
        self._records: dict[str, int] = {}
        """By the name of its file: the serial of a record."""
        for name in disk.list(self._folder):
            if found := _NAME.match(name):
                self._serials[found[2]] = int(found[1])
            elif found := _RECORD.match(name):
                self._records[name] = int(found[1])

    def __len__(self) -> int:
        return len(self._serials)

    def keep(self, effect: KeepResult) -> None:
        """Write a result, if they are wanted. Raises `OSError`; nothing is left of it then."""
        if not self.keeps:
            self._missing = max(self._missing, effect.serial)
            return
        short = effect.result.hex()[:16]
        path = self._path(effect.serial, short)
        try:
            self._disk.write(path, _content(effect.chunks), sync=False)
        except OSError as error:
            self._missing = max(self._missing, effect.serial)
            self.error = f"{self._folder} cannot be written: {error.strerror or error}"
            with suppress(OSError):
                self._disk.remove(path)
            raise
        with self._lock:
            self._serials[short] = effect.serial

    def leads_on_from(self, serial_floor: int) -> bool:
        """Whether whatever this process had of rounds after that serial is here, and is going to be."""
        return self.keeps and self._missing <= serial_floor

    def find(self, result: bytes) -> EncodedResult | None:
        """The result of that name as it was read, if there is a file that looks whole."""
        short = result.hex()[:16]
        with self._lock:
            serial = self._serials.get(short)
        if serial is None:
            return None
        try:
            chunks = _chunks(self._disk.read(self._path(serial, short)))
        except OSError:
            return None
        return None if chunks is None else EncodedResult([digest_of(chunk) for chunk in chunks], chunks)

    def prune(self, serial_floor: int) -> None:
        """Remove results of rounds up to this serial: every checkpoint that is left has them in it, or they
        were never committed."""
        with self._lock:
            old = [(short, serial) for short, serial in self._serials.items() if serial <= serial_floor]
            for short, _ in old:
                del self._serials[short]
            records = [name for name, serial in self._records.items() if serial <= serial_floor]
            for name in records:
                del self._records[name]
        for path in [*(self._path(serial, short) for short, serial in old), *map(self._at, records)]:
            with suppress(OSError):
                self._disk.remove(path)

    # -- records ------------------------------------------------------------------------------

    def note(self, record: Record) -> None:
        """Keep a record that this worker has followed, where its result is wanted too. A disk that is full
        costs this alone: the journal has it, and others' disks."""
        name = f"{record.serial:012}-{record.hash().hex()[:16]}.record"
        if not self.keeps or name in self._records:
            return
        with suppress(OSError):
            self._disk.write(self._at(name), [pack(record)], sync=False)
            with self._lock:
                self._records[name] = record.serial

    def records_after(self, head: bytes, serial_floor: int = 0) -> tuple[Record, ...]:
        """The records that lead on from a head, one after the other, all with higher serials than
        ``serial_floor``; of two that do the later one, which says that the other was undone."""
        found: dict[bytes, Record] = {}
        for name in [name for name, serial in self._records.items() if serial > serial_floor]:
            try:
                record = record_in(self._disk.read(self._at(name)))
            except (OSError, BadFrame):
                continue  # torn, as a killed process leaves it
            before = record.result if record.restores else record.parent
            if before not in found or found[before].serial < record.serial:
                found[before] = record
        chain: list[Record] = []
        while record_after := found.pop(head, None):
            chain.append(record_after)
            head = record_after.hash()
        return tuple(chain)

    def _at(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _path(self, serial: int, short: str) -> str:
        return f"{self._folder}/{serial:012}-{short}"


def _content(chunks: list[Payload]) -> Iterator[bytes | memoryview]:
    """The number of chunks, the size of each, and the chunks."""
    numbers = [len(chunks), *map(len, chunks)]
    yield b"".join(number.to_bytes(_NUMBER_BYTES, "little") for number in numbers)
    for chunk in chunks:
        assert not isinstance(chunk, Phantom), "a phantom has no bytes"
        yield memoryview(chunk)


def _chunks(content: bytes) -> list[Payload] | None:
    """What `_content` gave, or None if that is not whole."""
    view = memoryview(content)
    count = int.from_bytes(view[:_NUMBER_BYTES], "little")
    start = _NUMBER_BYTES * (1 + count)
    if count > _MAX_CHUNKS or len(view) < start:
        return None
    sizes = [
        int.from_bytes(view[at : at + _NUMBER_BYTES], "little")
        for at in range(_NUMBER_BYTES, start, _NUMBER_BYTES)
    ]
    if start + sum(sizes) != len(view):
        return None
    chunks: list[Payload] = []
    for size in sizes:
        chunks.append(view[start : start + size])
        start += size
    return chunks
