"""Streams: control in order, bulk once, sent again where a lane opens anew, never beyond the credit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from transport.effects import Effect, Send
from transport.errors import BadFrame
from transport.frames import Count, from_items, kind, to_items, unpack_items
from transport.limits import Limits
from transport.link.messages import NOBODY, Ack, Arrival, Ask, Session
from transport.link.streams import FRAME_COST, Streams

LIMITS = Limits(window_bytes=8 * 1024, spare_bytes=8 * 1024, payload_bytes=1024, control_queue=4, lanes=2)
US, US_ANEW, THEM = Session(10, 1), Session(10, 2), Session(20, 3)


@kind(1101)
@dataclass(frozen=True, slots=True)
class Line:
    number: Count


class Ends:
    """Our streams, and what they put on the wire; the other end grants a window at first."""

    def __init__(self, *, granted: int = LIMITS.window_bytes) -> None:
        self.out: list[Effect] = []
        self.streams = Streams(b"them", US, LIMITS, self.out)
        self.streams.begin_anew(US, THEM, keep_control=False)
        self.streams.acknowledged(Ack(*THEM, *US, 0, 0, granted, 0))
        self.streams.hello(reply=True)  # from here on they may send a window

    def sent(self) -> list[tuple[int, int, bool]]:
        """Lane, number and whether it is sent again, of the frames since the last call."""
        sends = [effect for effect in self.out if isinstance(effect, Send)]
        self.out.clear()
        return [(s.lane, from_items(unpack_items(s.header)[0]).seq, s.again) for s in sends]

    def bulk(self, seq: int, payload: bytes | None = b"p") -> list[Arrival]:
        return self.streams.bulk_arrived(0.0, seq, to_items(Line(seq)), payload)

    def control(self, seq: int) -> list[int]:
        arrivals = self.streams.control_arrived(0.0, seq, to_items(Line(seq)))
        return [arrival.message.number for arrival in arrivals]


def test_what_is_sent_while_no_lane_is_open_goes_out_over_the_first_that_opens() -> None:
    ends = Ends()
    ends.streams.send_control(0.0, Line(1))
    ends.streams.send_bulk(0.0, Line(1), b"p", "exchange")
    ends.streams.send_bulk(0.0, Line(2), b"p", "exchange")
    assert ends.sent() == []
    ends.streams.open_lane(0.0, 0)
    assert ends.sent() == [(0, 1, False)]
    ends.streams.open_lane(0.0, 2)
    assert ends.sent() == [(2, 1, False), (2, 2, False)]
    ends.streams.open_lane(0.0, 1)
    assert ends.sent() == []


def test_lanes_that_are_open_have_turns() -> None:
    ends = Ends()
    for lane in (2, 1):
        ends.streams.open_lane(0.0, lane)
    for number in range(4):
        ends.streams.send_bulk(0.0, Line(number), b"p", "exchange")
    assert [lane for lane, *_ in ends.sent()] == [2, 1, 2, 1]
    ends.streams.close_lane(0.0, 2)
    ends.sent()
    for number in range(4):
        ends.streams.send_bulk(0.0, Line(number), b"p", "exchange")
    assert [lane for lane, *_ in ends.sent()] == [1, 1, 1, 1]


def test_what_was_not_acknowledged_is_sent_again_over_another_lane_when_its_own_one_closes() -> None:
    ends = Ends()
    for lane in (1, 2):
        ends.streams.connected(lane)
        ends.streams.open_lane(0.0, lane)
    for number in range(6):
        ends.streams.send_bulk(0.0, Line(number), b"p", "exchange")
    ends.sent()
    ends.streams.acknowledged(Ack(*THEM, *US, 0, 2, LIMITS.window_bytes, 0))
    ends.streams.close_lane(0.0, 2)
    assert ends.sent() == [(1, 3, True), (1, 5, True)]
    ends.streams.connected(2)
    ends.streams.open_lane(0.0, 2)
    assert ends.sent() == [], "those are on their way over a lane that stands"
    ends.streams.close_lane(0.0, 1)
    assert ends.sent() == [(2, 3, True), (2, 4, True), (2, 5, True), (2, 6, True)]


def test_a_lane_that_nobody_of_ours_carries_has_another_only_while_one_is_open() -> None:
    ends = Ends()
    ends.streams.open_lane(0.0, 1)
    assert not ends.streams.has_another(1)
    ends.streams.open_lane(0.0, 2)
    assert ends.streams.has_another(1)
    ends.streams.connected(1)
    assert not ends.streams.has_another(1)


def test_what_was_not_acknowledged_is_sent_again_and_said_to_be() -> None:
    ends = Ends()
    ends.streams.open_lane(0.0, 1)
    for number in range(3):
        ends.streams.send_bulk(0.0, Line(number), b"p", "exchange")
    assert ends.sent() == [(1, 1, False), (1, 2, False), (1, 3, False)]
    ends.streams.acknowledged(Ack(*THEM, *US, 0, 1, LIMITS.window_bytes, 0))
    ends.streams.close_lane(0.0, 1)
    ends.streams.send_bulk(0.0, Line(6), b"p", "exchange")
    ends.streams.open_lane(0.0, 1)
    assert ends.sent() == [(1, 2, True), (1, 3, True), (1, 4, False)]


def test_what_goes_over_our_own_connection_is_not_sent_again_while_that_stands() -> None:
    ends = Ends()
    ends.streams.connected(1)
    ends.streams.open_lane(0.0, 1)
    ends.streams.send_bulk(0.0, Line(1), b"p", "exchange")
    assert ends.sent() == [(1, 1, False)]
    ends.streams.open_lane(0.0, 1)  # the other end dials too, and greets
    assert ends.sent() == []
    ends.streams.close_lane(0.0, 1)
    ends.streams.open_lane(0.0, 1)  # over the connection that the other end dialled
    assert ends.sent() == [(1, 1, True)]
    ends.streams.open_lane(0.0, 1)  # that may have broken: we are not told
    assert ends.sent() == [(1, 1, True)]
    for _ in range(2):
        ends.streams.connected(1)
        ends.streams.open_lane(0.0, 1)
        ends.streams.open_lane(0.0, 1)
        assert ends.sent() == [(1, 1, True)]
    ends.streams.close_lanes()
    ends.streams.open_lane(0.0, 1)
    assert ends.sent() == [(1, 1, True)]


def test_control_is_handed_on_in_order_and_once() -> None:
    ends = Ends()
    assert [ends.control(seq) for seq in (2, 3, 1, 1, 3, 4)] == [[], [], [1, 2, 3], [], [], [4]]
    assert ends.streams.kept().control_held == 0


def test_control_far_ahead_of_what_came_is_refused() -> None:
    ends = Ends()
    with pytest.raises(BadFrame, match="queue"):
        ends.control(LIMITS.control_queue + 2)


def test_bulk_is_handed_on_at_once_in_any_order_and_only_once() -> None:
    ends = Ends()
    arrived = [len(ends.bulk(seq)) for seq in (3, 1, 3, 2, 1, 2, 4)]
    assert arrived == [1, 1, 0, 1, 0, 0, 1]
    assert ends.streams.kept().bulk_seen == 0


def test_bulk_without_a_payload_is_refused() -> None:
    with pytest.raises(BadFrame, match="without a payload"):
        Ends().bulk(1, None)


def test_each_message_takes_room_until_it_is_granted_again() -> None:
    ends = Ends(granted=1000)
    assert ends.streams.room() == 1000 - FRAME_COST
    ends.streams.send_bulk(0.0, Line(0), bytes(100), "exchange")
    assert ends.streams.room() == 1000 - 100 - 2 * FRAME_COST
    ends.streams.acknowledged(Ack(*THEM, *US, 0, 1, 1000 + 100 + FRAME_COST, 0))
    assert ends.streams.room() == 1000 - FRAME_COST


def test_nothing_may_be_sent_to_a_session_that_is_not_known() -> None:
    ends = Ends()
    ends.streams.begin_anew(US_ANEW, NOBODY, keep_control=False)
    assert ends.streams.room() < 0


def test_what_is_consumed_is_granted_once_it_is_an_eighth_of_the_window() -> None:
    ends = Ends()
    for seq in (1, 2):
        (arrival,) = ends.bulk(seq, bytes(300))
        ends.streams.consumed(0.0, arrival.cost)
        assert len(ends.sent()) == seq - 1
    assert not ends.streams.owes_ack()


def test_many_control_messages_are_acknowledged_unasked() -> None:
    ends = Ends()
    for seq in range(1, 32):
        ends.control(seq)
    assert ends.streams.owes_ack()
    assert ends.sent() == []
    ends.control(32)
    assert ends.sent() == [(0, 0, False)]
    assert not ends.streams.owes_ack()


def test_who_begins_anew_keeps_control_that_waits_or_drops_it() -> None:
    for keeps, numbers in ((True, [1, 2]), (False, [])):
        ends = Ends()
        for number in range(2):
            ends.streams.send_control(0.0, Line(number))
        ends.streams.begin_anew(US_ANEW, THEM, keep_control=keeps)
        ends.streams.open_lane(0.0, 0)
        assert [seq for _, seq, _ in ends.sent()] == numbers
        ends.streams.send_control(0.0, Line(9))
        assert [seq for _, seq, _ in ends.sent()] == [len(numbers) + 1]


def test_more_control_than_the_queue_holds_overflows() -> None:
    ends = Ends()
    for number in range(LIMITS.control_queue):
        ends.streams.send_control(0.0, Line(number))
        assert not ends.streams.control_overflows()
    ends.streams.send_control(0.0, Line(9))
    assert ends.streams.control_overflows()


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    ends = Ends()
    ends.streams.send_control(0.0, Line(0))
    ends.streams.acknowledged(Ack(*THEM, *US, 1, 0, 0, 0))
    for control, bulk in ((2, 0), (1, 1)):
        with pytest.raises(BadFrame, match="never sent"):
            ends.streams.acknowledged(Ack(*THEM, *US, control, bulk, 0, 0))


def test_a_greeting_and_a_question_tell_what_arrived() -> None:
    ends = Ends()
    ends.control(1)
    ends.bulk(1)
    hello = ends.streams.hello(reply=True)
    assert (hello.session, hello.known, hello.control, hello.bulk) == (US, THEM, 1, 1)
    ends.streams.send_ask(5.0)
    (send,) = ends.out
    assert isinstance(send, Send)
    assert from_items(unpack_items(send.header)[0]) == Ask(*US, *THEM, 1, 1, LIMITS.window_bytes, 1)
    assert ends.streams.last_sent == 5.0
