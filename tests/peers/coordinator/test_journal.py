"""The journal: cut at any byte, it keeps every whole entry; damaged, it is refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peers.coordinator.journal import (
    FORMAT,
    Adopted,
    CommitWritten,
    FormerTermBegan,
    ModelAgreed,
    PeerCertified,
    RunBegan,
    TermBegan,
    read_entry,
)
from peers.coordinator.journal_file import Journal
from peers.coordinator.journal_scan import MAX_BYTES
from peers.coordinator.truncation import truncate
from peers.errors import JournalError
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Open
from peers.protocol.record import GENESIS, Record
from transport.errors import BadFrame
from transport.frames import pack, unpack

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
    with pytest.raises(JournalError, match=r"entry 2, at byte 53, .* damaged.* --truncate-at 2 "):
        entries(path)


def test_a_record_names_the_state_after_it() -> None:
    same = Record(**{name: getattr(RECORD, name) for name in Record.__slots__})  # type: ignore[attr-defined]
    assert same.hash() == RECORD.hash()
    assert CommitWritten.of(RECORD).commit() == RECORD


WRITTEN = bytes.fromhex(
    "00000005a686d68d93ccaa010400000027b25015be935ec4206b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b"
    "6b6b6b6b6b6b6ba277300000007dd84d8f55935fc478975cc420737373737373737373737373737373737373737373737373"
    "7373737373737373c4207474747474747474747474747474747474747474747474747474747474747474c420686868686868"
    "6868686868686868686868686868686868686868686868686868a4696e743892641ca76770742031323800000000251fcacc"
    "199361c420303030303030303030303030303030303030303030303030303030303030303000000000a981ec8d619260c4a5"
    "9c1ec4203030303030303030303030303030303030303030303030303030303030303030010005cf0000000100000009cd01"
    "0091c4206b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b91cb4020000000000000c4207272"
    "72727272727272727272727272727272727272727272727272727272727200c4200000000000000000000000000000000000"
    "000000000000000000000000000000"
)
"""A journal as the first version with this format wrote it."""


def test_the_end_of_a_long_journal_that_a_crash_cut_off_is_dropped_too(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "journal"
    journal = Journal(path)
    for number in range(600):
        journal.append(pack(TermBegan(number)))
    journal.close()
    data = path.read_bytes()
    assert len(data) > MAX_BYTES
    for cut in (1, 5, 12):
        path.write_bytes(data[:-cut])
        assert entries(path) == [TermBegan(number) for number in range(599)]


def test_an_adoption_whose_second_record_is_none_is_no_entry() -> None:
    with pytest.raises(BadFrame, match="record"):
        read_entry(pack(Adopted(pack(RECORD), pack(TermBegan(1)))))


def test_a_journal_of_this_format_is_read_and_would_be_written_the_same(tmp_path: Path) -> None:
    key, model = b"k" * 32, Manifest(b"s" * 32, b"t" * 32, b"h" * 32, "int8", (100, 28), "gpt 128")
    record = Record(b"0" * 32, 1, 0, 5, (1 << 32) + 9, 256, (key,), (8.0,), b"r" * 32)
    meant = [
        TermBegan(1),
        PeerCertified(key, "w0"),
        ModelAgreed.of(model),
        RunBegan(b"0" * 32),
        CommitWritten.of(record),
    ]
    (tmp_path / "old").write_bytes(WRITTEN)
    assert entries(tmp_path / "old") == meant
    assert record.hash().hex() == "8fc146ded0ad38e56a1bacd213e65f1b5c43e22f269dbd9db13c89490d48a22c"
    with closing(Journal(tmp_path / "new")) as journal:
        for entry in meant:
            journal.append(pack(entry))
    assert (tmp_path / "new").read_bytes() == WRITTEN


@pytest.mark.parametrize(
    ("began", "said"),
    [
        (FormerTermBegan(1), "has format 1, of an older version of this program: 4 is read. Go on with that"),
        (TermBegan(1, FORMAT + 1), "has format 5, of a newer version"),
    ],
)
def test_a_journal_of_another_format_is_refused_in_one_line_that_says_what_to_do(
    tmp_path: Path, began: FormerTermBegan | TermBegan, said: str
) -> None:
    path = tmp_path / "journal"
    with closing(Journal(path)) as journal:
        journal.append(pack(PeerCertified(b"k" * 32, "w0")))
        journal.append(pack(began))
        journal.append(pack(TermBegan(2)))
    before = path.read_bytes()
    for read in (entries, lambda path: truncate(path, 2)):
        with pytest.raises(JournalError) as raised:
            read(path)
        assert f"{path} {said}" in str(raised.value)
        assert "--fresh" in str(raised.value)
        assert "\n" not in str(raised.value)
    assert path.read_bytes() == before


def test_an_open_says_its_course_where_the_first_version_had_a_zero() -> None:
    said = Open(9, 1, 0, b"0" * 32, 256, (b"k" * 32,), (8.0,), ())
    first = (
        f"dc00104b090100c420{'30' * 32}cd010091c420{'6b' * 32}91cb40200000000000009090c20090"
        f"cb5f138d352e5096afc410{'00' * 16}90"
    )
    assert pack(said).hex() == first
    assert unpack(pack(replace(said, course=3))).course == 3


@contextmanager
def disk_that_fails(failing: str, size_bytes: int) -> Iterator[None]:
    """A disk with room for ten bytes after so many, perhaps without a cut, or one that cannot sync."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patched:
        if failing == "sync":
            patched.setattr("os.fsync", fail)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 10, before[1]))
        if failing == "write and cut":
            patched.setattr("os.ftruncate", fail)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("failing", ["write", "write and cut", "sync"])
def test_an_entry_that_could_not_be_written_is_not_there_and_may_be_written_again(
    tmp_path: Path, failing: str
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(pack(ENTRIES[0]))
    whole = path.read_bytes()
    for _ in range(2):
        with (
            disk_that_fails(failing, len(whole)),
            pytest.raises(OSError, match=r"File too large|Input/output"),
        ):
            journal.append(pack(ENTRIES[1]))
        assert path.read_bytes().startswith(whole)
        assert failing == "write and cut" or path.read_bytes() == whole
    for entry in ENTRIES[1:]:
        journal.append(pack(entry))
    journal.close()
    assert entries(path) == ENTRIES
