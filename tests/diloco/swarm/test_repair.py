"""A host whose journal cannot be used says where it is wrong, and goes on without that if it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

import diloco
from diloco.cli.app import FAULTS_OF_PEOPLE
from diloco.errors import UserError
from diloco.settings import parse_settings
from diloco.swarm.repair import truncate_journal
from peers.coordinator.journal import InviteMade, PeerKicked, TermBegan
from peers.coordinator.journal_file import Journal
from peers.coordinator.journal_scan import scan
from peers.errors import JournalError
from transport.frames import pack

LOCAL = "tcp://127.0.0.1:0"
RUN = parse_settings({"run": {"name": "repair", "rounds": 3}}, "")


def journal_in(home: Path) -> Path:
    return next(path for path in home.iterdir() if path.name.startswith("journal-"))


def test_a_host_goes_on_without_an_entry_that_cannot_be_used_once_it_is_told_to(tmp_path: Path) -> None:
    with diloco.host(RUN, listen=LOCAL, state=tmp_path):
        pass
    path = journal_in(tmp_path)
    journal = Journal(path)
    before = journal.entries()
    journal.append(pack(PeerKicked(b"k" * 32)))
    journal.append(pack(TermBegan(9)))
    journal.close()
    number = len(before) + 1
    whole = path.read_bytes()
    with pytest.raises(FAULTS_OF_PEOPLE, match=f"entry {number}, .*never let in.* --truncate-at {number} "):
        diloco.host(RUN, listen=LOCAL, state=tmp_path)
    assert path.read_bytes() == whole, "nothing is written to a journal that is refused"
    said = truncate_journal(RUN, tmp_path, number)
    assert "2 entries" in said
    assert "1 worker(s) put out" in said
    with diloco.host(RUN, listen=LOCAL, state=tmp_path):
        pass
    assert sum(isinstance(entry, InviteMade) for entry in scan(path.read_bytes()).entries) == 1
    assert [entry.term for entry in scan(path.read_bytes()).entries if isinstance(entry, TermBegan)][-2:] == [
        9,
        10,
    ]


def test_a_journal_in_use_or_absent_is_not_cut(tmp_path: Path) -> None:
    with (
        diloco.host(RUN, listen=LOCAL, state=tmp_path / "one"),
        pytest.raises(UserError, match="is in use by the host"),
    ):
        truncate_journal(RUN, tmp_path / "one", 1)
    with pytest.raises(JournalError, match="cannot be read: No such file"):
        truncate_journal(RUN, tmp_path / "two", 1)
