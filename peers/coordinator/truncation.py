"""Going on with a journal of which the end is of no use: cut it off, keep the old file, and say what is lost.

A shell: it reads and writes files. Serials of the lives to come must not meet those of the lives that are
lost, so a term is written that is as high as any that can be among them (S2).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.coordinator.journal import (
    CommitWritten,
    InviteMade,
    InviteRevoked,
    PeerCertified,
    PeerInvited,
    PeerKicked,
    RunStopped,
    TermBegan,
    read_entry,
)
from peers.coordinator.journal_scan import LEAST_BYTES, body_at, framed, scan
from peers.errors import JournalError
from transport.errors import BadFrame
from transport.frames import pack

_NAMES = {
    PeerCertified: "worker(s) let in",
    PeerInvited: "worker(s) let in with a ticket",
    InviteMade: "ticket(s) made",
    InviteRevoked: "ticket(s) revoked",
    PeerKicked: "worker(s) put out",
    RunStopped: "end(s) of the run",
}


@dataclass(frozen=True, slots=True)
class Cut:
    """What was cut off a journal."""

    entries: list[Any]
    """What can be read of it."""
    unread_bytes: int
    kept_in: Path
    """The journal as it was."""

    def __str__(self) -> str:
        commits = [entry.commit().index for entry in self.entries if isinstance(entry, CommitWritten)]
        kinds = Counter(type(entry) for entry in self.entries)
        lost = [f"commit(s) {min(commits)} to {max(commits)} (workers may hold them)"] if commits else []
        lost += [f"{kinds[each]} {name}" for each, name in _NAMES.items() if kinds[each]]
        lost += [f"{self.unread_bytes} bytes that cannot be read"] if self.unread_bytes else []
        named = ", ".join(lost) or "nothing that anybody relies on"
        return f"cut off {len(self.entries)} entries of the journal: {named}; it was kept as {self.kept_in}"


def truncate(path: Path, number: int) -> Cut:
    """Cut off the entry of that number, the first being 1, and all behind it. Raises `JournalError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}") from None
    found = scan(data)
    found.require_format(path)
    begins = [*found.begins, found.end]
    if not 1 <= number <= len(begins) or begins[number - 1] == len(data):
        read = len(found.begins)
        raise JournalError(
            f"{path} has {read} entries that can be read: nothing is to be cut off at {number}"
        )
    at = begins[number - 1]
    lost, unread_bytes = _readable(data, at)
    term = max((e.term for e in [*found.entries, *lost] if isinstance(e, TermBegan)), default=0)
    new = data[:at] + framed(pack(TermBegan(term + unread_bytes // LEAST_BYTES)))
    try:
        kept_in = _replace(path, new, number)
    except OSError as error:
        raise JournalError(f"{path} cannot be cut: {error.strerror}") from None
    return Cut(lost, unread_bytes, kept_in)


def _readable(data: bytes, at: int) -> tuple[list[Any], int]:
    """The entries from a byte on, and how many bytes are of none."""
    found, unread = [], 0
    while at < len(data):
        body = body_at(data, at)
        if body is None:
            at, unread = at + 1, unread + 1
            continue
        takes = len(framed(body))
        try:
            found.append(read_entry(body))
        except BadFrame:
            unread += takes
        at += takes
    return found, unread


def _replace(path: Path, new: bytes, number: int) -> Path:
    """Put new bytes in the place of a file, whose old ones are kept under the name that is returned."""
    kept_in = path.with_name(f"{path.name}.before-{number}")
    while kept_in.exists():
        kept_in = kept_in.with_name(f"{kept_in.name}x")
    half = path.with_name(f"{path.name}.new")
    with open(half, "wb") as file:
        os.chmod(half, 0o600)
        file.write(new)
        file.flush()
        os.fsync(file.fileno())
    os.link(path, kept_in)
    os.replace(half, path)
    return kept_in
