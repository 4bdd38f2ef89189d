"""Reading a journal: what a crash leaves is cut, and any other fault is named by the number of its entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.coordinator.journal import PeerCertified, RunBegan, TermBegan
from peers.coordinator.journal_scan import FRAME_BYTES, body_at, framed, scan
from peers.protocol.messages import CaughtUp
from transport.frames import pack

ENTRIES = [TermBegan(1), PeerCertified(b"k" * 32, "w0"), RunBegan(b"0" * 32), TermBegan(2)]
FRAMES = [framed(pack(each)) for each in ENTRIES]
WHOLE = b"".join(FRAMES)


def test_entries_are_read_with_the_byte_at_which_each_begins() -> None:
    found = scan(WHOLE)
    assert (found.entries, found.fault, found.end) == (ENTRIES, "", len(WHOLE))
    assert [body_at(WHOLE, at) for at in found.begins] == [frame[FRAME_BYTES:] for frame in FRAMES]


@given(size=st.integers(0, len(WHOLE)), zeros=st.integers(0, 100))
def test_what_a_crash_leaves_is_no_fault(size: int, zeros: int) -> None:
    found = scan(WHOLE[:size] + b"\0" * zeros * (size < len(WHOLE)))
    assert found.fault == ""
    assert found.entries == ENTRIES[: len(found.entries)]
    assert found.end == sum(map(len, FRAMES[: len(found.entries)]))
    assert found.end > size - max(map(len, FRAMES))


@given(at=st.integers(0, len(WHOLE) - len(FRAMES[-1]) - 1), flip=st.integers(1, 255))
def test_damage_before_the_last_entry_is_a_fault_and_loses_nothing_before_it(at: int, flip: int) -> None:
    data = bytearray(WHOLE)
    data[at] ^= flip
    found = scan(bytes(data))
    assert found.fault
    assert len(found.entries) == sum(at >= begin for begin in scan(WHOLE).begins) - 1


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"\x92\xcd\x03\xe7\x01", "kind 999 is unknown"),
        (b"\x92\x60\xc4\x02hi", "CommitWritten"),
        (pack(CaughtUp(b"h" * 32)), "CaughtUp is no entry of a journal"),
    ],
)
def test_a_whole_entry_that_means_nothing_here_is_a_fault(body: bytes, fault: str) -> None:
    found = scan(FRAMES[0] + framed(body))
    assert found.entries == ENTRIES[:1]
    assert fault in found.fault or "header" in found.fault
