"""Fetches: states are fetched with patience and within limits, and not at all by who holds them."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import numpy as np
import pytest

from peers.member.fetches import MAX_RESULTS_AT_ONCE, Fetches
from peers.member.results import KeptResults
from peers.protocol.messages import CatchUp
from peers.protocol.record import Record
from transport.collectives.fetch import AtHand, Lack, Piece, Want, index_page
from transport.collectives.reducer import NumpyReducer
from transport.digests import digest_of, tree_digest
from transport.effects import NEVER, EncodedResult, Payload, Phantom, PhantomBlob
from transport.limits import Limits

LIMITS = Limits(payload_bytes=1000, pieces_in_flight=8)
NUM_PIECES = 20
NUM_FRAGMENTS = 6
AHEAD_BYTES = 3 * 32
"""Three results."""
HEAD, DONOR = b"h" * 32, b"d" * 32


def content_of(index: int) -> bytes:
    return np.full(8, index + 1, np.float32).tobytes()


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

    def state_at_hand(self, fragment: int) -> AtHand | None:
        return AtHand(Blob(fragment).piece, digests_of(fragment)) if fragment in self.held else None

    def state_blob(self, fragment: int, blob: bytes) -> Blob | None:
        matches = fragment in self.held and blob == tree_digest(digests_of(fragment))
        return Blob(fragment) if matches else None

    def kept_result(self, result: bytes) -> EncodedResult | None:
        return None


class Wire:
    """Notes what is asked of whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Want]] = []
        self.disk: list[tuple[int, bytes, EncodedResult]] = []
        self.heard = 0.0

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self.asked.append((peer, message))

    def keep(self, serial: int, result: bytes, encoded: EncodedResult) -> None:
        self.disk.append((serial, result, encoded))

    def last_heard(self, now: float, peer: bytes) -> float:
        return self.heard

    def room(self, peer: bytes) -> int:
        return 10**9


def catching_up(wire: Wire, app: App) -> Fetches:
    me = hashlib.sha256(b"me").digest()
    kept = KeptResults(app, 4, 0, wire)  # type: ignore[arg-type]
    fetches = Fetches(me, app, wire, LIMITS, 10.0, 60.0, AHEAD_BYTES, kept)  # type: ignore[arg-type]
    for fragment in range(NUM_FRAGMENTS):
        state = tree_digest(digests_of(fragment))
        remaining = NUM_FRAGMENTS - fragment - 1
        fetches.fetch_state(0.0, CatchUp(fragment, b"v" * 32, state, (b"donor",), b"h" * 32, 7, remaining))
    return fetches


def test_a_donor_that_was_never_heard_of_is_not_asked_before_one_that_is() -> None:
    wire = Wire()
    wire.last_heard = lambda now, peer: NEVER if peer == b"dead" else 0.0  # type: ignore[method-assign]
    kept = KeptResults(App(), 4, 0, wire)  # type: ignore[arg-type]
    fetches = Fetches(HEAD, App(), wire, LIMITS, 10.0, 60.0, AHEAD_BYTES, kept)  # type: ignore[arg-type]
    state = tree_digest(digests_of(0))
    fetches.fetch_state(0.0, CatchUp(0, b"v" * 32, state, (b"dead", b"lives"), HEAD, 7, 0))
    assert {peer for peer, _ in wire.asked} == {b"lives"}
    assert fetches.donors() == {b"dead", b"lives"}
    fetches.drop_donor(1.0, b"lives")
    assert wire.asked[-1][0] == b"dead", "nobody else is left"


def answer(fetches: Fetches, wire: Wire, now: float) -> None:
    _, want = wire.asked.pop(0)
    fragment = next(f for f in range(NUM_FRAGMENTS) if want.blob == tree_digest(digests_of(f)))
    payload: Payload = (
        index_page(digests_of(fragment), want.piece, LIMITS)
        if want.index
        else phantom_of(fragment, want.piece)
    )
    fetches.take_piece(now, b"donor", Piece(want.blob, want.piece, want.index), payload)


def test_a_donor_owes_no_more_pieces_than_the_limit_however_many_fragments_there_are() -> None:
    wire = Wire()
    fetches = catching_up(wire, App())
    while wire.asked:
        assert len(wire.asked) <= LIMITS.pieces_in_flight
        answer(fetches, wire, 1.0)
    assert all(each.fetch.done for each in fetches.states)


def test_who_holds_the_state_fetches_nothing() -> None:
    wire = Wire()
    fetches = catching_up(wire, App(held=tuple(range(NUM_FRAGMENTS))))
    assert not wire.asked
    assert all(each.fetch.done for each in fetches.states)
    data = fetches.states[2].data
    assert isinstance(data, PhantomBlob)
    assert len(data.pieces) == NUM_PIECES


def test_a_donor_with_a_living_link_is_given_time_and_a_silent_one_is_not() -> None:
    for heard, gone_at in ((0.0, 12.0), (1e9, 61.0)):
        wire = Wire()
        wire.heard = heard
        fetches = catching_up(wire, App())
        fetches.tick(gone_at - 3.0)
        assert not any(each.fetch.failed for each in fetches.states)
        fetches.tick(gone_at)
        assert any(each.fetch.failed for each in fetches.states)


@pytest.mark.parametrize(("heard", "dropped_at"), [(1e9, [60.0, 120.0]), (-1e9, [10.0, 11.25])])
def test_the_donor_after_a_silent_one_has_as_long_if_its_link_lives(
    heard: float, dropped_at: list[float]
) -> None:
    """Of those that are not heard of each would cost a timeout, though they are silent all the while."""
    wire = Wire()
    wire.heard = heard
    kept = KeptResults(App(), 4, 0, wire)  # type: ignore[arg-type]
    fetches = Fetches(HEAD, App(), wire, LIMITS, 10.0, 60.0, AHEAD_BYTES, kept)  # type: ignore[arg-type]
    order = CatchUp(0, b"v" * 32, tree_digest(digests_of(0)), (b"one", b"other"), HEAD, 7, 0)
    fetches.fetch_state(0.0, order)
    found = []
    for tick in range(1, 97):
        before = fetches.donors()
        fetches.tick(1.25 * tick)
        found += [1.25 * tick] * len(before - fetches.donors())
    assert [peer for peer, _ in wire.asked] == [b"one", b"other"]
    assert found == dropped_at
    assert fetches.states[0].fetch.failed


class Receiving(App):
    def receiver(self, fragment: int) -> NumpyReducer:
        return NumpyReducer(8)


class Behind:
    """A member at its head, to whom ``count`` records came of whose results it has none."""

    def __init__(self, wire: Wire, count: int, adapts: bool = False) -> None:
        app = Receiving()
        self.records: deque[Record] = deque()
        self.kept = KeptResults(app, 4, 0, wire)  # type: ignore[arg-type]
        self.fetches = Fetches(
            b"m" * 32,
            app,
            wire,  # type: ignore[arg-type]
            LIMITS,
            10.0,
            60.0,
            AHEAD_BYTES,
            self.kept,
            adapts=adapts,
        )
        for index in range(count):
            parent = self.records[-1].hash() if self.records else HEAD
            result = tree_digest([digest_of(content_of(index))])
            self.records.append(Record(parent, index + 1, 0, 0, index + 1, 8, (DONOR,), (1.0,), result))
        self.fetch()

    def finish(self, index: int) -> None:
        """The result of one record comes whole."""
        content, blob = content_of(index), self.records[index].result
        page = index_page([digest_of(content)], 0, LIMITS)
        self.fetches.take_piece(2.0, DONOR, Piece(blob, 0, True), page)
        self.fetches.take_piece(2.0, DONOR, Piece(blob, 0, False), content)
        assert self.fetches.finish_results(self.records)

    def fetch(self) -> None:
        self.fetches.fetch_missing_results(1.0, self.records, HEAD, [])


def test_results_of_several_records_are_fetched_at_once_though_not_of_all() -> None:
    wire = Wire()
    behind = Behind(wire, 9)
    wanted = [want.blob for _, want in wire.asked]
    assert wanted == [record.result for record in behind.records][: len(wanted)]
    assert len(wanted) == MAX_RESULTS_AT_ONCE
    behind.fetch()
    assert len(wire.asked) == len(wanted)  # nothing is asked for twice


def test_of_results_ahead_only_so_many_bytes_are_fetched_and_the_next_one_always() -> None:
    wire = Wire()
    behind = Behind(wire, 9)
    for taken in range(4):
        behind.finish(taken)
    behind.fetch()
    assert len(wire.asked) == 4 * 2, "an index and a chunk of each, and no fifth"
    behind.records.appendleft(behind.records.pop())  # one that is not here is due
    behind.fetch()
    assert [want.blob for _, want in wire.asked[8:]] == [behind.records[0].result]


def test_results_that_were_applied_take_no_room_of_those_ahead() -> None:
    """Whoever is behind would fetch one after the other: fast rounds stay ahead of that for ever."""
    wire = Wire()
    behind = Behind(wire, 9)
    for taken in range(4):
        behind.finish(taken)
    for _ in range(4):
        behind.records.popleft()
    behind.fetch()
    assert [want.blob for _, want in wire.asked[8:]] == [each.result for each in behind.records][:4]


def test_where_lengths_depend_on_the_state_only_the_next_result_is_fetched() -> None:
    wire = Wire()
    Behind(wire, 9, adapts=True)
    assert len(wire.asked) == 1


def test_a_result_that_nobody_has_is_missed_once_it_is_due() -> None:
    behind = Behind(Wire(), 3)
    later, due = behind.records[1], behind.records[0]
    behind.fetches.drop_lacking(1.0, DONOR, Lack(later.result))
    assert behind.fetches.finish_results(behind.records)
    behind.fetches.drop_lacking(1.0, DONOR, Lack(due.result))
    assert not behind.fetches.finish_results(behind.records)


def test_who_lacked_a_result_is_asked_again_while_somebody_has_it() -> None:
    behind = Behind(Wire(), 1)
    fetches, (found,) = behind.fetches, behind.fetches.results
    found.fetch.add_donors([b"e" * 32])
    fetches.drop_lacking(1.0, b"e" * 32, Lack(found.record.result))
    assert fetches.donors() == {DONOR}
    fetches.tick(2.0)
    assert found.fetch.donors == [DONOR, b"e" * 32]
    fetches.drop_lacking(3.0, b"e" * 32, Lack(found.record.result))
    fetches.drop_donor(3.0, b"e" * 32)
    fetches.tick(4.0)
    assert fetches.donors() == {DONOR}


def test_a_result_that_all_lack_again_and_again_is_given_up() -> None:
    """With many donors some are always about to be asked once more."""
    behind = Behind(Wire(), 1)
    fetches, (found,) = behind.fetches, behind.fetches.results
    others = [DONOR, *(bytes([each]) * 32 for each in range(1, 16))]
    found.fetch.add_donors(others[1:])
    for tick in range(4 * len(others)):
        fetches.drop_lacking(tick / 100, others[tick % len(others)], Lack(found.record.result))
        fetches.tick(tick / 100)
    assert not behind.fetches.finish_results(behind.records)


def test_a_result_that_has_come_whole_is_kept_and_can_be_decoded() -> None:
    wire = Wire()
    behind = Behind(wire, 1)
    (record,) = behind.records
    digests = [digest_of(content_of(0))]
    page = index_page(digests, 0, LIMITS)
    behind.fetches.take_piece(2.0, DONOR, Piece(record.result, 0, True), page)
    behind.fetches.take_piece(2.0, DONOR, Piece(record.result, 0, False), content_of(1))
    assert behind.fetches.donors() == set()  # wrong bytes: that one is asked no more
    behind = Behind(wire, 1)
    behind.fetches.take_piece(2.0, DONOR, Piece(record.result, 0, True), page)
    behind.fetches.take_piece(2.0, DONOR, Piece(record.result, 0, False), content_of(0))
    assert behind.fetches.finish_results(behind.records)
    assert not behind.fetches.results
    assert wire.disk == [(record.serial, record.result, EncodedResult(digests, [content_of(0)]))]
    decoded = behind.kept.decode(record)
    assert isinstance(decoded, NumpyReducer)
    assert decoded.output.tobytes() == content_of(0)


def test_a_result_is_asked_of_its_members_and_then_of_everybody_else() -> None:
    behind = Behind(Wire(), 0)
    result = tree_digest([digest_of(content_of(0)[:16]), digest_of(content_of(0)[16:])])
    record = Record(HEAD, 1, 0, 0, 1, 4, (DONOR, b"m" * 32), (1.0, 1.0), result)
    behind.fetches.fetch_missing_results(1.0, [record], HEAD, [b"e" * 32, DONOR, b"m" * 32])
    (found,) = behind.fetches.results
    assert found.fetch.donors == [DONOR, b"e" * 32]
    page = index_page([digest_of(content_of(0)[:16]), digest_of(content_of(0)[16:])], 0, LIMITS)
    behind.fetches.take_piece(2.0, DONOR, Piece(result, 0, True), page)
    for piece in range(2):
        payload = content_of(0)[16 * piece : 16 * piece + 16]
        behind.fetches.take_piece(2.0, DONOR, Piece(result, piece, False), payload)
    assert found.fetch.done  # in two chunks, as the record says


def test_what_one_donor_owes_is_asked_of_another_when_it_lacks_it_or_is_gone() -> None:
    for why in ("lacks", "gone", "silent"):
        wire = Wire()
        me, state = b"m" * 32, tree_digest(digests_of(0))
        kept = KeptResults(App(), 4, 0, wire)  # type: ignore[arg-type]
        fetches = Fetches(me, App(), wire, LIMITS, 10.0, 60.0, AHEAD_BYTES, kept)  # type: ignore[arg-type]
        fetches.fetch_state(0.0, CatchUp(0, b"v" * 32, state, (DONOR, b"e" * 32), HEAD, 7, 0))
        asked = [want for _, want in wire.asked]
        assert [peer for peer, _ in wire.asked] == [DONOR]
        if why == "lacks":
            fetches.drop_lacking(1.0, DONOR, Lack(state))
        elif why == "gone":
            fetches.drop_donor(1.0, DONOR)
        else:
            fetches.tick(11.0)
        assert wire.asked[1:] == [(b"e" * 32, want) for want in asked], why
        assert fetches.donors() == {b"e" * 32}


def test_what_was_asked_over_a_link_that_began_anew_is_asked_again() -> None:
    wire = Wire()
    behind = Behind(wire, 1)
    asked = list(wire.asked)
    behind.fetches.ask_again(2.0, DONOR)
    assert wire.asked == asked * 2


def test_who_stops_asks_nobody_for_anything() -> None:
    fetches = catching_up(Wire(), App())
    assert fetches.donors() == {b"donor"}
    behind = Behind(Wire(), 1)
    for each in (fetches, behind.fetches):
        each.stop()
        assert each.donors() == set()


def test_a_large_state_that_is_here_is_taken_in_several_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.collectives.fetch.TAKEN_AT_ONCE", 2)
    fetches = catching_up(Wire(), App(held=tuple(range(NUM_FRAGMENTS))))
    goes = 0
    while fetches.busy:
        assert not all(each.fetch.done for each in fetches.states)
        fetches.take_at_hand(0.0)
        goes += 1
    assert goes == -(-NUM_PIECES // 2) - 1
    assert all(each.fetch.done for each in fetches.states)
