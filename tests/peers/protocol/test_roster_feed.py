"""The roster's feed: everybody reads the same changes in order, in batches that fit into a frame."""

from __future__ import annotations

from typing import Any

import pytest

from peers.protocol.messages import MemberActive, MemberGone, MemberIs, RosterBatch, Wanted
from peers.protocol.roster_feed import RosterFeed, messages_in, packed
from transport.errors import BadFrame
from transport.frames import pack, pack_items, to_items
from transport.limits import LIMITS


def key(index: int) -> bytes:
    return index.to_bytes(32, "big")


def arrival(index: int) -> MemberIs:
    return MemberIs(1, key(index), f"member {index}", ("tcp://somewhere.example:1",), 0)


class Reading:
    """A feed and what its readers have read."""

    def __init__(self, *readers: int) -> None:
        self.batches: dict[bytes, list[bytes]] = {}
        self.feed = RosterFeed(self.send)
        for reader in readers:
            self.feed.entered(0.0, key(reader))

    def send(self, now: float, peer: bytes, message: Any) -> None:
        assert isinstance(message, RosterBatch)
        self.batches.setdefault(peer, []).append(message.batch)

    def read(self, reader: int) -> list[Any]:
        return [each for batch in self.batches.get(key(reader), []) for each in messages_in(batch)]

    def change(self, now: float, *messages: Any, whole: list[Any] | None = None) -> None:
        for message in messages:
            self.feed.add(now, message)
        self.feed.flush(now, lambda: whole or [])


def test_all_read_the_same_changes_in_order_whenever_they_enter() -> None:
    reading = Reading(1)
    changes = [arrival(2), MemberActive(key(2)), MemberGone(1, key(2), "bye"), arrival(2)]
    reading.change(0.0, *changes[:2])
    reading.feed.entered(0.0, key(3))
    reading.change(0.0, *changes[2:])
    assert reading.read(1) == reading.read(3) == changes


def test_one_who_has_left_reads_no_more_and_one_who_is_back_reads_from_the_beginning() -> None:
    reading = Reading(1)
    reading.change(0.0, arrival(1))
    reading.feed.left(key(1))
    reading.change(0.0, arrival(2))
    assert reading.read(1) == [arrival(1)]
    reading.batches.clear()
    reading.feed.entered(0.0, key(1))
    assert reading.read(1) == [arrival(1), arrival(2)]


def test_a_batch_fits_into_a_frame_whatever_it_holds() -> None:
    longest = MemberIs(1 << 62, key(1), "n" * 64, (f"tcp://{'a' * 56}:1",) * 3, 63)
    batches = packed([to_items(longest)] * 100)
    assert [each for batch in batches for each in messages_in(batch)] == [longest] * 100
    assert len(batches) > 5
    for batch in batches:
        assert len(pack(RosterBatch(batch))) < LIMITS.header_bytes - 100  # a link adds its own header


def test_in_a_small_run_nothing_waits_and_in_a_large_one_changes_wait_for_others() -> None:
    small, large = Reading(*range(16)), Reading(*range(17))
    for reading in (small, large):
        reading.change(1.0, arrival(1))
    assert small.read(0) == [arrival(1)]
    assert large.read(0) == []
    large.change(1.1, arrival(2))
    assert large.read(0) == []
    large.change(1.25)
    assert large.read(0) == [arrival(1), arrival(2)]
    assert len(large.batches[key(0)]) == 1


def test_a_sequence_that_has_become_long_is_replaced_by_the_roster_as_it_is() -> None:
    reading = Reading(1)
    changes = [arrival(index) for index in range(40)]
    for change in changes:
        reading.change(0.0, change, whole=[arrival(7)])
    assert reading.read(1) == changes  # whoever has read the changes reads none of them twice
    reading.feed.entered(0.0, key(2))
    read = reading.read(2)
    assert len(read) < 40
    assert read[0] == arrival(7)
    assert read[1:] == changes[-(len(read) - 1) :]


@pytest.mark.parametrize("batch", [b"", b"\xc1", pack_items(7), pack_items([[1, 2]]), pack_items([7])])
def test_what_is_no_batch_is_rubbish(batch: bytes) -> None:
    with pytest.raises(BadFrame):
        messages_in(batch)


def test_a_batch_holds_nothing_but_changes_of_the_roster() -> None:
    (batch,) = packed([to_items(arrival(1)), to_items(Wanted(0))])
    with pytest.raises(BadFrame, match="roster"):
        messages_in(batch)


def test_nothing_makes_no_batch() -> None:
    assert packed([]) == []
