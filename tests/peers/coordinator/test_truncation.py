"""Cutting a journal off: what is before stays, what is lost is said, and the old file is there still."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from peers.coordinator.journal import CommitWritten, PeerCertified, RunBegan, TermBegan
from peers.coordinator.journal_file import Journal
from peers.coordinator.journal_scan import LEAST_BYTES, framed, scan
from peers.coordinator.truncation import truncate
from peers.errors import JournalError
from peers.protocol.record import Record
from transport.frames import pack

ROOT = b"0" * 32
ONE = Record(ROOT, 1, 0, 5, 9, 256, (b"k" * 32,), (8.0,), b"r" * 32)
TWO = Record(ONE.hash(), 2, 0, 5, 10, 256, (b"k" * 32,), (8.0,), b"r" * 32)
ENTRIES = [
    TermBegan(1),
    PeerCertified(b"k" * 32, "w0"),
    RunBegan(ROOT),
    CommitWritten.of(ONE),
    TermBegan(7),
    CommitWritten.of(TWO),
    PeerCertified(b"l" * 32, "w1"),
]
FRAMES = [framed(pack(each)) for each in ENTRIES]


def test_what_is_before_the_entry_stays_and_what_is_lost_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"".join(FRAMES))
    cut = truncate(path, 4)
    assert cut.entries == ENTRIES[3:]
    for word in ("4 entries", "commit(s) 1 to 2", "1 worker(s) let in", str(cut.kept_in)):
        assert word in str(cut)
    assert cut.kept_in.read_bytes() == b"".join(FRAMES)
    assert scan(path.read_bytes()).entries == [*ENTRIES[:3], TermBegan(7)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_that_is_damaged_can_be_read_again_after_the_cut_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    broken = bytearray(FRAMES[3])
    broken[20] ^= 1
    path.write_bytes(b"".join([*FRAMES[:3], broken, *FRAMES[4:]]))
    with (
        closing(Journal(path)) as journal,
        pytest.raises(JournalError, match=r"entry 4, .* --truncate-at 4 "),
    ):
        journal.entries()
    cut = truncate(path, 4)
    assert cut.entries == ENTRIES[4:]
    assert cut.unread_bytes == len(broken)
    # As many lives may have begun among the bytes that nobody can read.
    most = max(7 + len(broken) // LEAST_BYTES, 7)
    found = scan(path.read_bytes()).entries
    assert found == [*ENTRIES[:3], TermBegan(most)]


def test_nothing_is_cut_where_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(JournalError, match="cannot be read: No such file"):
        truncate(path, 1)
    path.write_bytes(b"".join(FRAMES))
    for number in (0, len(ENTRIES) + 1, 100):
        with pytest.raises(JournalError, match="has 7 entries"):
            truncate(path, number)
    assert list(tmp_path.iterdir()) == [path]


def test_an_earlier_copy_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"".join(FRAMES))
    first, second = truncate(path, 4), truncate(path, 4)
    assert first.kept_in != second.kept_in
    assert first.kept_in.read_bytes() == b"".join(FRAMES)
