"""Follower: states are fetched with patience and within limits, and not at all by who holds them."""

from __future__ import annotations

import hashlib
from typing import Any

from peers.member.follower import Follower
from peers.protocol.messages import CatchUp
from peers.protocol.record import Record
from transport.collectives.fetch import Lack, Piece, Want, index_page
from transport.collectives.reducer import NumpyReducer
from transport.digests import digest_of, tree_digest
from transport.effects import Payload, Phantom, PhantomBlob
from transport.limits import Limits

LIMITS = Limits(payload_bytes=1000, pieces_in_flight=8)
NUM_PIECES = 20
NUM_FRAGMENTS = 6


def phantom_of(fragment: int, index: int) -> Phantom:
    return Phantom(1000, bytes([fragment, index]))


def digests_of(fragment: int) -> list[bytes]:
    return [digest_of(phantom_of(fragment, i)) for i in range(NUM_PIECES)]


class Blob:
    def __init__(self, fragment: int) -> None:
        self.digests = digests_of(fragment)
        self.fragment = fragment

    def piece(self, index: int) -> Payload:
        return phantom_of(self.fragment, index)


class App:
    """Holds the state of some fragments."""

    def __init__(self, held: tuple[int, ...] = ()) -> None:
        self.held = held

    def receiver(self, fragment: int) -> Any:
        raise AssertionError("no result is decoded here")

    def state_buffer(self, fragment: int) -> PhantomBlob:
        return PhantomBlob(1000 * NUM_PIECES)

    def state_blob(self, fragment: int, blob: bytes) -> Blob | None:
        matches = fragment in self.held and blob == tree_digest(digests_of(fragment))
        return Blob(fragment) if matches else None


class Wire:
    """Notes what is asked of whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Want]] = []
        self.heard = 0.0

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self.asked.append((peer, message))

    def last_heard(self, now: float, peer: bytes) -> float:
        return self.heard

    def room(self, peer: bytes) -> int:
        return 10**9


def catching_up(wire: Wire, app: App) -> Follower:
    me = hashlib.sha256(b"me").digest()
    follower = Follower(me, app, wire, LIMITS, 10.0, 60.0, [1] * NUM_FRAGMENTS)  # type: ignore[arg-type]
    for fragment in range(NUM_FRAGMENTS):
        state = tree_digest(digests_of(fragment))
        remaining = NUM_FRAGMENTS - fragment - 1
        follower.begin_catching_up(
            0.0, CatchUp(fragment, b"v" * 32, state, (b"donor",), b"h" * 32, 7, remaining)
        )
    return follower


def answer(follower: Follower, wire: Wire, now: float) -> None:
    _, want = wire.asked.pop(0)
    fragment = next(f for f in range(NUM_FRAGMENTS) if want.blob == tree_digest(digests_of(f)))
    payload: Payload = (
        index_page(digests_of(fragment), want.piece, LIMITS)
        if want.index
        else phantom_of(fragment, want.piece)
    )
    follower.piece(now, b"donor", Piece(want.blob, want.piece, want.index), payload)


def test_a_donor_owes_no_more_pieces_than_the_limit_however_many_fragments_there_are() -> None:
    wire = Wire()
    follower = catching_up(wire, App())
    while wire.asked:
        assert len(wire.asked) <= LIMITS.pieces_in_flight
        answer(follower, wire, 1.0)
    assert all(each.fetch.done for each in follower.state_fetches)


def test_who_holds_the_state_fetches_nothing() -> None:
    wire = Wire()
    follower = catching_up(wire, App(held=tuple(range(NUM_FRAGMENTS))))
    assert not wire.asked
    assert all(each.fetch.done for each in follower.state_fetches)
    data = follower.state_fetches[2].data
    assert isinstance(data, PhantomBlob)
    assert len(data.pieces) == NUM_PIECES


def test_a_donor_with_a_living_link_is_given_time_and_a_silent_one_is_not() -> None:
    for heard, gone_at in ((0.0, 12.0), (1e9, 61.0)):
        wire = Wire()
        wire.heard = heard
        follower = catching_up(wire, App())
        follower.tick(gone_at - 3.0)
        assert not any(each.fetch.failed for each in follower.state_fetches)
        follower.tick(gone_at)
        assert any(each.fetch.failed for each in follower.state_fetches)


class Receiving(App):
    def receiver(self, fragment: int) -> NumpyReducer:
        return NumpyReducer(8)


def behind(wire: Wire, count: int, adapts: bool = False) -> Follower:
    """A member at its head, to whom ``count`` records came of whose results it has none."""
    follower = Follower(b"m" * 32, Receiving(), wire, LIMITS, 10.0, 60.0, [8], adapts)  # type: ignore[arg-type]
    follower.begin_at(b"h" * 32)
    for index in range(count):
        parent = follower.records[-1].hash() if follower.records else follower.head
        result = hashlib.sha256(bytes([index])).digest()
        follower.records.append(Record(parent, index + 1, 0, 0, index + 1, 8, (b"d" * 32,), (1.0,), result))
    follower.fetch_missing_results(1.0, [])
    return follower


def test_results_of_several_records_are_fetched_at_once_though_not_of_all() -> None:
    wire = Wire()
    follower = behind(wire, 9)
    wanted = [want.blob for _, want in wire.asked]
    assert wanted == [record.result for record in follower.records][: len(wanted)]
    assert 1 < len(wanted) < 9
    follower.fetch_missing_results(1.0, [])
    assert len(wire.asked) == len(wanted)  # nothing is asked for twice


def test_where_lengths_depend_on_the_state_only_the_next_result_is_fetched() -> None:
    wire = Wire()
    behind(wire, 9, adapts=True)
    assert len(wire.asked) == 1


def test_a_result_that_nobody_has_is_missed_once_it_is_due() -> None:
    wire = Wire()
    follower = behind(wire, 3)
    later, due = follower.records[1], follower.records[0]
    follower.lacks(1.0, b"d" * 32, Lack(later.result))
    assert follower.finish_result_fetches()
    follower.lacks(1.0, b"d" * 32, Lack(due.result))
    assert not follower.finish_result_fetches()


def test_who_lacked_a_result_is_asked_again_while_somebody_has_it() -> None:
    wire = Wire()
    follower = behind(wire, 1)
    (fetch,) = follower.result_fetches
    fetch.fetch.add_donors([b"e" * 32])
    follower.lacks(1.0, b"e" * 32, Lack(fetch.record.result))
    assert fetch.fetch.donors == [b"d" * 32]
    follower.tick(2.0)
    assert fetch.fetch.donors == [b"d" * 32, b"e" * 32]
    follower.lacks(3.0, b"e" * 32, Lack(fetch.record.result))
    follower.peer_left(3.0, b"e" * 32)
    follower.tick(4.0)
    assert fetch.fetch.donors == [b"d" * 32]
