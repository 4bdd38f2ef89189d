"""Words of an earlier life of a link: whatever they say, nothing of the present one moves (S14)."""

from __future__ import annotations

from tests.transport.link.kit import LIMITS, End, Note, Pair
from tests.transport.link.test_streams import THEM, US_ANEW, Ends, Line
from transport.frames import to_items
from transport.link.messages import Ack, Hello, Session


def settled_in_generation_2() -> Pair:
    """The dialling end begins its second generation, and both have greeted."""
    pair = Pair()
    pair.settle()
    pair.a = End(b"a", b"b", 5, generation=2, dials=True)
    pair.connect()
    pair.settle()
    return pair


def test_a_greeting_of_an_older_generation_acknowledges_nothing_and_is_no_sign_of_life() -> None:
    pair = settled_in_generation_2()
    b = pair.b.link
    b.send_control(pair.now, Note(1, "of this life"))
    heard, kept = b.last_heard, b.streams.kept()
    assert kept.control_out == 1
    late = Hello(5, 1, *b.session, 1, 0, LIMITS.window_bytes, False)
    assert b.receive(pair.now + 50.0, 0, [to_items(late)], None) == []
    assert (b.last_heard, b.streams.kept(), b.incarnation) == (heard, kept, 5)
    assert b.streams.peer_session == Session(5, 2)


def test_words_that_were_meant_for_an_earlier_life_of_ours_are_not_taken() -> None:
    pair = Pair()
    pair.settle()
    a, b = pair.a.link, pair.b.link
    before = b.session
    b.begin_anew(Session(5, 2))
    pair.connect()
    pair.settle()
    assert b.up
    late = Ack(*a.session, *before, 0, 0, LIMITS.window_bytes, 1)
    assert b.receive(pair.now, 0, [to_items(late), to_items(Note(9, "late"))], None) == []
    assert pair.b.control == []


def test_no_lane_stays_open_over_a_new_session() -> None:
    ends = Ends()
    for lane in (0, 1):
        ends.streams.open_lane(0.0, lane)
    ends.streams.begin_anew(US_ANEW, THEM, keep_control=False)
    ends.streams.send_control(0.0, Line(1))
    for number in (1, 2):
        ends.streams.acknowledged(Ack(*THEM, *US_ANEW, 0, 0, LIMITS.window_bytes, 0))
        ends.streams.send_bulk(0.0, Line(number), b"p", "exchange")
    assert ends.sent() == [], "the other end may not know of this session yet"
    ends.streams.open_lane(0.0, 0)
    assert ends.sent() == [(0, 1, False)]
