"""The journal: cut at any byte, it keeps every whole entry; damaged, it is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from peers.coordinator.journal import CommitWritten, Journal, PeerCertified, TermBegan
from peers.errors import JournalError
from peers.protocol.record import GENESIS, Record
from transport.frames import pack

RECORD = Record(GENESIS, 1, 0, 5, 9, 256, (b"k" * 32,), (8.0,), b"r" * 32)
ENTRIES = [TermBegan(1), PeerCertified(b"k" * 32, "w0"), CommitWritten.of(RECORD), TermBegan(2)]


def written(path: Path) -> bytes:
    journal = Journal(path)
    for entry in ENTRIES:
        journal.append(pack(entry))
    journal.close()
    return path.read_bytes()


def entries(path: Path) -> list[Any]:
    with closing(Journal(path)) as journal:
        return journal.entries()


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    written(tmp_path / "journal")
    assert entries(tmp_path / "journal") == ENTRIES


def test_cut_at_any_byte_it_keeps_every_whole_entry_and_can_go_on(tmp_path: Path) -> None:
    data = written(tmp_path / "whole")
    for size in range(len(data)):
        path = tmp_path / "cut"
        path.write_bytes(data[:size])
        journal = Journal(path)
        found = journal.entries()
        assert found == ENTRIES[: len(found)]
        journal.append(pack(TermBegan(7)))
        journal.close()
        assert entries(path) == [*found, TermBegan(7)]


def test_damage_in_the_middle_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for _ in range(200):
        journal.append(pack(PeerCertified(b"k" * 32, "somebody")))
    journal.close()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match="damaged at byte"):
        entries(path)


def test_a_record_names_the_state_after_it() -> None:
    same = Record(**{name: getattr(RECORD, name) for name in Record.__slots__})  # type: ignore[attr-defined]
    assert same.hash() == RECORD.hash()
    assert CommitWritten.of(RECORD).commit() == RECORD
