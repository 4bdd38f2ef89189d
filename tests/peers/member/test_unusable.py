"""What was fetched and cannot be used: the member says so, waits for another state, and trains on."""

from __future__ import annotations

import numpy as np

from peers.protocol.commands import ConfirmLoaded, RefuseLoaded
from peers.protocol.events import FellBehind, GotUnusable, RoundCommitted, StateFetched
from peers.protocol.messages import CatchUp, CaughtUp, NeedState, Unusable
from tests.peers.member.fakes import BASE, HOST, LIMITS, OTHER, SIZE, THIRD, pieces_of, record_on, state_of
from tests.peers.member.test_follower import FollowingMember
from transport.collectives.fetch import Piece, Want, index_page
from transport.digests import digest_of, tree_digest
from transport.effects import EncodedResult, Payload

NAN = np.full(SIZE, np.nan, np.float32).tobytes()


def test_a_committed_result_that_does_not_decode_is_told_and_another_state_is_waited_for() -> None:
    member = FollowingMember()
    bad = tree_digest([digest_of(NAN)])
    member.results.keep(bad, EncodedResult([digest_of(NAN)], [NAN]), ())
    member.commit(record_on(BASE, 1, result=bad), with_result=False)
    (told,) = member.outlet.told(HOST, Unusable)
    assert (told.fragment, told.blob, told.peers) == (0, bad, ())
    assert "not finite" in told.reason
    said = [type(message) for _, message in member.outlet.said]
    assert said.index(Unusable) < said.index(NeedState)
    assert [event.fragment for event in member.outlet.seen(GotUnusable)] == [0]
    assert member.outlet.seen(FellBehind)
    assert not member.outlet.seen(RoundCommitted)
    assert member.results.find(bad) is None, "nobody gets it from here"
    for _ in range(5):
        member.follower.advance(1.0)
    assert len(member.outlet.told(HOST, NeedState)) == 1


def test_after_a_result_that_does_not_decode_a_whole_state_is_taken_and_followed_from() -> None:
    member = FollowingMember()
    bad = tree_digest([digest_of(NAN)])
    member.results.keep(bad, EncodedResult([digest_of(NAN)], [NAN]), ())
    member.commit(record_on(BASE, 1, result=bad), with_result=False)
    member.fetch_whole_state()
    for fragment in range(2):
        order = member.order(fragment)
        assert [event.fragment for event in member.outlet.seen(StateFetched)][-1] == fragment
        member.follower.confirm_loaded(0.0, ConfirmLoaded(fragment, order.version, order.state[:16]))
    assert member.outlet.told(HOST, CaughtUp)[-1] == CaughtUp(b"n" * 32)
    member.commit(record_on(b"n" * 32, 10))
    assert member.handed() == [10]


def test_a_state_that_does_not_load_is_told_and_another_one_is_waited_for() -> None:
    member = FollowingMember(at=None)
    member.fetch_whole_state()
    order = member.order(0)
    member.follower.refuse_loaded(0.0, RefuseLoaded(1, order.version, "of another order"))
    assert not member.outlet.told(HOST, Unusable)
    member.follower.refuse_loaded(0.0, RefuseLoaded(0, order.version, "3 values are not finite"))
    assert member.outlet.told(HOST, Unusable) == [Unusable(0, order.state, (), "3 values are not finite")]
    assert len(member.outlet.told(HOST, NeedState)) == 1
    assert not member.fetches.states, "the rest of it is of no use either"


def test_who_refuses_the_first_fragment_of_a_state_still_holds_the_earlier_one() -> None:
    member = FollowingMember()
    member.fetch_whole_state()
    first, second = member.order(0), member.order(1)
    member.follower.refuse_loaded(0.0, RefuseLoaded(0, first.version, "not finite"))
    assert member.versions.holds_state
    assert member.versions.head == BASE
    member.fetch_whole_state()
    member.follower.confirm_loaded(0.0, ConfirmLoaded(0, first.version, first.state[:16]))
    member.follower.refuse_loaded(0.0, RefuseLoaded(1, second.version, "not finite"))
    assert not member.versions.holds_state, "half of it is another one"


def answer(member: FollowingMember, donor: bytes, want: Want, payload: Payload) -> None:
    member.fetches.take_piece(0.0, donor, Piece(want.blob, want.piece, want.index), payload)
    member.follower.advance(0.0)


def test_a_donor_of_wrong_pieces_is_told_of_and_not_asked_again_for_that_state() -> None:
    member = FollowingMember(at=None)
    pieces, order = pieces_of(state_of(0)), member.order(0)
    member.follower.fetch_state(0.0, order)
    for want in member.outlet.told(OTHER, Want):
        answer(member, OTHER, want, index_page([digest_of(piece) for piece in pieces], want.piece, LIMITS))
    wanted = next(want for want in member.outlet.told(OTHER, Want) if not want.index)
    answer(member, OTHER, wanted, bytes(len(pieces[wanted.piece])))
    (told,) = member.outlet.told(HOST, Unusable)
    assert (told.fragment, told.blob, told.peers) == (0, order.state, (OTHER,))
    num_asked = len(member.outlet.told(OTHER, Want))
    both = CatchUp(0, order.version, order.state, (OTHER, THIRD), order.head, 9, 1)
    member.follower.fetch_state(0.0, both)
    assert len(member.outlet.told(OTHER, Want)) == num_asked
    assert member.outlet.told(THIRD, Want)
