"""Following: states are fetched with patience and within limits, and not at all by who holds them."""

from __future__ import annotations

import hashlib
from typing import Any

from peers.member.follower import Following
from peers.protocol.messages import CatchUp
from peers.protocol.record import Record
from transport.collectives.fetch import Lack, Piece, Want, index_page
from transport.collectives.reducer import PlainPayloads
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


def catching_up(wire: Wire, app: App) -> Following:
    me = hashlib.sha256(b"me").digest()
    following = Following(me, app, wire, LIMITS, 10.0, 60.0, [1] * NUM_FRAGMENTS)  # type: ignore[arg-type]
    for fragment in range(NUM_FRAGMENTS):
        state = tree_digest(digests_of(fragment))
        remaining = NUM_FRAGMENTS - fragment - 1
        following.begin_catching_up(
            0.0, CatchUp(fragment, b"v" * 32, state, (b"donor",), b"h" * 32, 7, remaining)
        )
    return following


def answer(following: Following, wire: Wire, now: float) -> None:
    _, want = wire.asked.pop(0)
    fragment = next(f for f in range(NUM_FRAGMENTS) if want.blob == tree_digest(digests_of(f)))
    payload: Payload = (
        index_page(digests_of(fragment), want.piece, LIMITS)
        if want.index
        else phantom_of(fragment, want.piece)
    )
    following.piece(now, b"donor", Piece(want.blob, want.piece, want.index), payload)


def test_a_donor_owes_no_more_pieces_than_the_limit_however_many_fragments_there_are() -> None:
    wire = Wire()
    following = catching_up(wire, App())
    while wire.asked:
        assert len(wire.asked) <= LIMITS.pieces_in_flight
        answer(following, wire, 1.0)
    assert all(each.fetch.done for each in following.state_fetches)


def test_who_holds_the_state_fetches_nothing() -> None:
    wire = Wire()
    following = catching_up(wire, App(held=tuple(range(NUM_FRAGMENTS))))
    assert not wire.asked
    assert all(each.fetch.done for each in following.state_fetches)
    data = following.state_fetches[2].data
    assert isinstance(data, PhantomBlob)
    assert len(data.pieces) == NUM_PIECES


def test_a_donor_with_a_living_link_is_given_time_and_a_silent_one_is_not() -> None:
    for heard, gone_at in ((0.0, 12.0), (1e9, 61.0)):
        wire = Wire()
        wire.heard = heard
        following = catching_up(wire, App())
        following.tick(gone_at - 3.0)
        assert not any(each.fetch.failed for each in following.state_fetches)
        following.tick(gone_at)
        assert any(each.fetch.failed for each in following.state_fetches)


class Receiving(App):
    def receiver(self, fragment: int) -> PlainPayloads:
        return PlainPayloads(8)


def behind(wire: Wire, count: int, adapts: bool = False) -> Following:
    """A member at its head, to whom ``count`` records came of whose results it has none."""
    following = Following(b"m" * 32, Receiving(), wire, LIMITS, 10.0, 60.0, [8], adapts)  # type: ignore[arg-type]
    following.begin_at(b"h" * 32)
    for index in range(count):
        parent = following.records[-1].hash() if following.records else following.head
        result = hashlib.sha256(bytes([index])).digest()
        following.records.append(Record(parent, index + 1, 0, 0, index + 1, 8, (b"d" * 32,), (1.0,), result))
    following.fetch_missing_results(1.0, [])
    return following


def test_results_of_several_records_are_fetched_at_once_though_not_of_all() -> None:
    wire = Wire()
    following = behind(wire, 9)
    wanted = [want.blob for _, want in wire.asked]
    assert wanted == [record.result for record in following.records][: len(wanted)]
    assert 1 < len(wanted) < 9
    following.fetch_missing_results(1.0, [])
    assert len(wire.asked) == len(wanted)  # nothing is asked for twice


def test_where_lengths_depend_on_the_state_only_the_next_result_is_fetched() -> None:
    wire = Wire()
    behind(wire, 9, adapts=True)
    assert len(wire.asked) == 1


def test_a_result_that_nobody_has_is_missed_once_it_is_due() -> None:
    wire = Wire()
    following = behind(wire, 3)
    later, due = following.records[1], following.records[0]
    following.lacks(1.0, b"d" * 32, Lack(later.result))
    assert following.finish_result_fetches()
    following.lacks(1.0, b"d" * 32, Lack(due.result))
    assert not following.finish_result_fetches()


def test_who_lacked_a_result_is_asked_again_while_somebody_has_it() -> None:
    wire = Wire()
    following = behind(wire, 1)
    (fetch,) = following.result_fetches
    fetch.fetch.add_donors([b"e" * 32])
    following.lacks(1.0, b"e" * 32, Lack(fetch.record.result))
    assert fetch.fetch.donors == [b"d" * 32]
    following.tick(2.0)
    assert fetch.fetch.donors == [b"d" * 32, b"e" * 32]
    following.lacks(3.0, b"e" * 32, Lack(fetch.record.result))
    following.peer_left(3.0, b"e" * 32)
    following.tick(4.0)
    assert fetch.fetch.donors == [b"d" * 32]
