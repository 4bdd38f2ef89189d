"""Donor: who asks gets what is held, at the pace of its credit, and nobody gets half a state."""

from __future__ import annotations

import pytest

from peers.member.donor import Donor
from peers.member.results import KeptResults
from peers.member.versions import Versions
from peers.protocol.manifest import layout_name
from tests.peers.member.fakes import (
    BASE,
    LIMITS,
    OTHER,
    THIRD,
    TIMEOUT_S,
    FakeApp,
    FakeOutlet,
    name_of,
    pieces_of,
    record_on,
    result_of,
    state_of,
)
from transport.collectives.fetch import Lack, Piece, Want
from transport.digests import digest_of
from transport.effects import EncodedResult
from transport.errors import BadFrame

LAYOUT = bytes(range(100))


class Giving:
    """A donor of two fragments' states and of one result."""

    def __init__(self) -> None:
        self.outlet = FakeOutlet()
        self.app = FakeApp(state_of(0), state_of(1))
        self.versions = Versions(holds_state=True)
        results = KeptResults(self.app, 4, 0, self.outlet)
        chunk = result_of(1)
        results.keep(record_on(BASE).result, EncodedResult([digest_of(chunk)], [chunk]), ())
        self.donor = Donor(self.app, self.outlet, LIMITS, TIMEOUT_S, 2, self.versions, results)
        self.donor.hold_layout(LAYOUT)

    def ask(self, blob: bytes, piece: int = 0, *, index: bool = False, peer: bytes = OTHER) -> object:
        """The payload that comes back, or `Lack`; None if it waits."""
        self.outlet.bulk.clear()
        self.outlet.said.clear()
        self.donor.hand_out(0.0, peer, Want(blob, piece, index))
        if self.outlet.said:
            assert self.outlet.said == [(peer, Lack(blob))]
            return Lack
        if not self.outlet.bulk:
            return None
        ((to, answer, payload),) = self.outlet.bulk
        assert (to, answer) == (peer, Piece(blob, piece, index))
        return payload


def test_pieces_of_states_and_results_are_handed_out_by_name() -> None:
    giving = Giving()
    for state in (state_of(0), state_of(1)):
        assert [giving.ask(name_of(state), i) for i in range(3)] == pieces_of(state)
    assert giving.ask(record_on(BASE).result) == result_of(1)


def test_the_index_lists_the_digests_of_the_pieces() -> None:
    state = state_of(1)
    pages = [Giving().ask(name_of(state), page, index=True) for page in range(2)]
    assert b"".join(pages) == b"".join(digest_of(piece) for piece in pieces_of(state))  # type: ignore[arg-type]


def test_what_is_not_here_is_said_to_be_lacking() -> None:
    giving = Giving()
    assert giving.ask(b"x" * 32) is Lack
    assert giving.ask(name_of(state_of(0)), 3) is Lack


def test_whoever_does_not_hold_a_whole_state_hands_out_none() -> None:
    giving = Giving()
    giving.versions.holds_state = False
    assert giving.ask(name_of(state_of(0))) is Lack
    assert giving.ask(record_on(BASE).result) == result_of(1)


def test_a_state_that_somebody_is_about_to_fetch_is_kept_though_training_moves_on() -> None:
    state = state_of(0)
    for promised in (True, False):
        giving = Giving()
        if promised:
            giving.donor.serve(0.0, 0, name_of(state))
        giving.donor.serve(0.0, 2, name_of(state))  # there is no such fragment
        giving.app.states[0] = bytes(len(state))
        assert giving.ask(name_of(state)) == (pieces_of(state)[0] if promised else Lack)


def test_a_state_that_nobody_asks_for_is_given_up() -> None:
    giving = Giving()
    name = name_of(state_of(0))
    giving.donor.serve(0.0, 0, name)
    giving.app.states.clear()
    giving.donor.tick(2 * TIMEOUT_S)
    giving.donor.hand_out(2 * TIMEOUT_S, OTHER, Want(name, 0, False))
    giving.donor.tick(4 * TIMEOUT_S)
    giving.donor.hand_out(2 * TIMEOUT_S, OTHER, Want(name, 1, False))
    giving.donor.tick(4 * TIMEOUT_S + 1.0)
    giving.donor.hand_out(4 * TIMEOUT_S + 1.0, OTHER, Want(name, 2, False))
    assert [payload for _, _, payload in giving.outlet.bulk] == pieces_of(state_of(0))[:2]
    assert giving.outlet.said == [(OTHER, Lack(name))]


def test_a_piece_waits_for_credit() -> None:
    giving = Giving()
    giving.outlet.room_bytes = 0
    assert giving.ask(name_of(state_of(0))) is None
    giving.donor.hand_out_waiting(1.0)
    assert giving.outlet.bulk == []
    giving.outlet.room_bytes = LIMITS.payload_bytes
    giving.donor.hand_out_waiting(2.0)
    giving.donor.hand_out_waiting(3.0)
    assert [payload for _, _, payload in giving.outlet.bulk] == [pieces_of(state_of(0))[0]]


def test_one_whose_link_began_anew_gets_only_what_it_asks_for_again() -> None:
    giving = Giving()
    giving.outlet.room_bytes = 0
    giving.ask(name_of(state_of(0)), peer=OTHER)
    giving.ask(name_of(state_of(0)), peer=THIRD)
    giving.donor.drop_waiting(OTHER)
    giving.outlet.room_bytes = 1000
    giving.donor.hand_out_waiting(2.0)
    assert [to for to, _, _ in giving.outlet.bulk] == [THIRD]


def test_one_peer_may_have_only_so_many_pieces_waiting() -> None:
    giving = Giving()
    giving.outlet.room_bytes = 0
    for _ in range(4 * LIMITS.pieces_in_flight):
        giving.ask(name_of(state_of(0)))
    with pytest.raises(BadFrame, match="more pieces"):
        giving.ask(name_of(state_of(0)))
    assert giving.ask(name_of(state_of(0)), peer=THIRD) is None


def test_the_text_of_the_layout_is_handed_out_also_by_one_that_holds_no_state() -> None:
    giving = Giving()
    giving.versions.holds_state = False
    name = layout_name(LAYOUT, LIMITS.payload_bytes)
    assert [giving.ask(name, i) for i in range(3)] == [LAYOUT[:64], LAYOUT[64:], Lack]
    assert giving.ask(name, index=True) == digest_of(LAYOUT[:64]) + digest_of(LAYOUT[64:])
