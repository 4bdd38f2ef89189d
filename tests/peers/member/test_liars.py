"""Whoever handed out other bytes for a blob is not asked for that one again, and for others still."""

from __future__ import annotations

from peers.member.liars import MAX_BLOBS, Liars
from tests.peers.member.fakes import OTHER, THIRD


def test_a_bad_donor_of_a_blob_is_left_out_of_that_blob_only() -> None:
    liars = Liars()
    liars.note(b"one", [OTHER])
    assert liars.without(b"one", [OTHER, THIRD]) == [THIRD]
    assert liars.without(b"two", [OTHER, THIRD]) == [OTHER, THIRD]
    assert liars.of(b"one") == (OTHER,)
    assert liars.of(b"two") == ()


def test_the_oldest_blobs_are_forgotten() -> None:
    liars = Liars()
    for number in range(3 * MAX_BLOBS):
        liars.note(bytes([number]), [OTHER])
    kept = [number for number in range(3 * MAX_BLOBS) if liars.of(bytes([number]))]
    assert kept == list(range(2 * MAX_BLOBS, 3 * MAX_BLOBS))
