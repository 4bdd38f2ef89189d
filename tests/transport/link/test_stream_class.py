"""The stream of a link: beside other bulk, with a lane, numbers and credit of its own; each payload once."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.transport.link.kit import Note
from transport.effects import CONTROL_LANE, STREAM_LANE, Connect, Effect, Send
from transport.errors import BadFrame
from transport.frames import to_items, unpack_items
from transport.limits import Limits
from transport.link.bulk import FRAME_COST
from transport.link.link import Link
from transport.link.messages import Ack, Arrival, Hello, Session, StreamAck

LIMITS = Limits(
    window_bytes=4096, stream_window_bytes=4096, buffer_bytes=64 << 10, spare_bytes=0, payload_bytes=1024
)
US, THEM = Session(5, 1), Session(6, 1)
LANES = (CONTROL_LANE, 1, STREAM_LANE)


class End:
    """One end; what comes is consumed at once, if it ``consumes``."""

    def __init__(self, session: Session, other: bytes, *, dials: bool, with_stream: bool = True) -> None:
        self.out: list[Effect] = []
        ends: Any = {"dials": dials, "addresses": ("there",), "heartbeat_s": 1.0, "silence_s": 5.0}
        self.link = Link(other, session, limits=LIMITS, out=self.out, with_stream=with_stream, **ends)
        self.got: dict[bool, list[int]] = {False: [], True: []}
        self.consumes = True

    def hear(self, send: Send) -> None:
        for each in self.link.receive(0.0, send.lane, unpack_items(send.header), send.payload):
            if isinstance(each, Arrival) and each.payload is not None:
                self.got[each.is_stream].append(each.message.number)
                if self.consumes:
                    streams = self.link.streams
                    (streams.stream_consumed if each.is_stream else streams.consumed)(0.0, each.cost)

    def sends(self) -> list[Send]:
        found = [each for each in self.out if isinstance(each, Send)]
        self.out.clear()
        return found


class Pair:
    """Two ends; frames of a lane stay in order, lanes do not wait for each other."""

    def __init__(self) -> None:
        self.a, self.b = End(US, b"b", dials=True), End(THEM, b"a", dials=False)
        self.wire: dict[int, list[tuple[End, Send]]] = {lane: [] for lane in LANES}
        for lane in LANES:
            self.a.link.connected(0.0, lane)
        self.settle()

    def collect(self) -> None:
        for end, other in ((self.a, self.b), (self.b, self.a)):
            for send in end.sends():
                self.wire[send.lane].append((other, send))

    def deliver(self, lane: int, most: int = 1 << 30) -> None:
        for _ in range(min(most, len(self.wire[lane]))):
            to, send = self.wire[lane].pop(0)
            to.hear(send)

    def settle(self) -> None:
        self.collect()
        while any(self.wire.values()):
            for lane in LANES:
                self.deliver(lane)
            self.collect()

    def reset(self, lane: int) -> None:
        self.collect()
        self.wire[lane].clear()
        self.a.link.disconnected(0.0, lane)
        self.a.link.connected(0.0, lane)


def fill(end: End, *, stream: bool) -> int:
    """Send as much as may be sent; how many frames."""
    streams, number = end.link.streams, 0
    while (streams.stream_room() if stream else streams.room()) >= 1000:
        payload = bytes(1000)
        if stream:
            streams.send_stream(0.0, Note(number, ""), payload)
        else:
            streams.send_bulk(0.0, Note(number, ""), payload, "exchange")
        number += 1
    return number


@pytest.mark.parametrize("stream", [False, True])
def test_credit_that_one_class_has_used_up_leaves_the_other_its_own(stream: bool) -> None:
    pair = Pair()
    pair.b.consumes = False
    most = LIMITS.window_bytes // (1000 + FRAME_COST)
    assert fill(pair.a, stream=stream) == most
    pair.settle()
    assert fill(pair.a, stream=stream) == 0
    assert fill(pair.a, stream=not stream) == most
    pair.settle()
    assert pair.b.got == {False: list(range(most)), True: list(range(most))}


def test_what_is_streamed_is_acknowledged_over_the_lane_of_control_and_kept_no_longer() -> None:
    pair = Pair()
    num = fill(pair.a, stream=True)
    sent = pair.a.sends()
    assert [(each.lane, each.purpose) for each in sent] == [(STREAM_LANE, "stream")] * num
    for each in sent:
        pair.b.hear(each)
    answers = pair.b.sends()
    assert {each.lane for each in answers} == {CONTROL_LANE}
    for each in answers:
        pair.a.hear(each)
    assert pair.a.link.streams.kept().stream_out_cost == 0
    assert fill(pair.a, stream=True) == num


def test_what_a_silent_end_owes_of_a_stream_it_says_after_a_while() -> None:
    pair = Pair()
    pair.a.link.streams.send_stream(0.0, Note(1, ""), b"")
    pair.settle()
    assert pair.a.link.streams.kept().stream_out_cost > 0
    pair.b.link.tick(6.0, watched=False)
    pair.settle()
    assert pair.a.link.streams.kept().stream_out_cost == 0


def test_each_payload_of_each_class_comes_once_whatever_lane_breaks() -> None:
    for seed in range(30):
        draws, pair, said = Random(seed), Pair(), {False: 0, True: 0}
        for _ in range(60):
            stream, streams = draws.random() < 0.5, pair.a.link.streams
            if (streams.stream_room() if stream else streams.room()) >= 100:
                note, payload = Note(said[stream], ""), bytes(100)
                if stream:
                    streams.send_stream(0.0, note, payload)
                else:
                    streams.send_bulk(0.0, note, payload, "exchange")
                said[stream] += 1
            pair.collect()
            pair.deliver(draws.choice(LANES), draws.randrange(4))
            if draws.random() < 0.2:
                pair.reset(draws.choice(LANES[1:]))
        pair.settle()
        for stream in (False, True):
            assert sorted(pair.b.got[stream]) == list(range(said[stream])), (seed, stream)


def test_bulk_never_takes_the_lane_of_the_stream_nor_the_stream_another() -> None:
    pair = Pair()
    pair.a.link.disconnected(0.0, 1)
    assert fill(pair.a, stream=False) > 0
    assert pair.a.sends() == []
    pair.a.link.disconnected(0.0, STREAM_LANE)
    assert fill(pair.a, stream=True) > 0
    assert pair.a.sends() == []
    pair.b.link.ended(0.0, STREAM_LANE)
    for lane in (1, STREAM_LANE):
        pair.a.link.connected(0.0, lane)
    pair.settle()
    assert len(pair.b.got[False]) == len(pair.b.got[True]) > 0


def test_another_session_begins_both_classes_anew() -> None:
    pair = Pair()
    pair.b.consumes = False
    fill(pair.a, stream=True)
    pair.settle()
    hello = to_items(Hello(THEM[0] + 1, 1, *US, 0, 0, 1 << 20, False))
    pair.a.link.receive(0.0, STREAM_LANE, [hello], None)
    kept = pair.a.link.streams.kept()
    assert (kept.stream_out_cost, kept.bulk_out_cost) == (0, 0)


def test_a_link_dials_the_lane_of_the_stream_if_it_has_one() -> None:
    for with_stream in (False, True):
        end = End(US, b"b", dials=True, with_stream=with_stream)
        end.link.start(0.0)
        (connect,) = end.out
        assert isinstance(connect, Connect)
        assert connect.numbers == ((0, 1, STREAM_LANE) if with_stream else (0, 1))


ACK = (*THEM, *US, 0, 0, 4096)
NOTE = to_items(Note(1, ""))


@pytest.mark.parametrize(
    ("lane", "items", "payload"),
    [
        (STREAM_LANE, [to_items(Ack(*ACK, 1)), NOTE], b"p"),
        (1, [to_items(StreamAck(*ACK, 1)), NOTE], b"p"),
        (CONTROL_LANE, [to_items(StreamAck(*ACK, 1)), NOTE], None),
        (STREAM_LANE, [to_items(StreamAck(*ACK, 1)), NOTE], None),
        (STREAM_LANE, [to_items(StreamAck(*ACK, 1 << 40)), NOTE], b"p"),
        (STREAM_LANE, [to_items(StreamAck(*ACK, 1)), NOTE], bytes(1 << 20)),
        (CONTROL_LANE, [to_items(StreamAck(*THEM, *US, 0, 1, 4096, 0))], None),
        (STREAM_LANE, [to_items(StreamAck(*THEM, *US, 1, 0, 4096, 0))], None),
        (STREAM_LANE, [to_items(Hello(*THEM, *US, 0, 1, 4096, True))], None),
    ],
)
def test_rubbish_in_a_stream_is_refused(lane: int, items: list[Any], payload: bytes | None) -> None:
    pair = Pair()
    with pytest.raises(BadFrame):
        pair.a.link.receive(0.0, lane, items, payload)


@pytest.mark.parametrize("lane", [CONTROL_LANE, 1, STREAM_LANE])
def test_where_there_is_no_stream_nothing_of_one_is_taken(lane: int) -> None:
    end = End(US, b"b", dials=False, with_stream=False)
    end.link.receive(0.0, CONTROL_LANE, [to_items(Hello(*THEM, *US, 0, 0, 4096, True))], None)
    with pytest.raises(BadFrame):
        end.link.receive(0.0, lane, [to_items(StreamAck(*ACK, 1)), NOTE], b"p")
    with pytest.raises(BadFrame):
        end.link.receive(0.0, STREAM_LANE, [to_items(Hello(*THEM, *US, 0, 0, 4096, True))], None)
    assert end.link.streams.stream_room() == -1


def test_what_was_streamed_once_does_nothing_the_second_time() -> None:
    pair = Pair()
    fill(pair.a, stream=True)
    frames = pair.a.sends()
    for each in frames:
        pair.b.hear(each)
    pair.b.sends()
    before, got = pair.b.link.digest_parts(), list(pair.b.got[True])
    for each in frames:
        pair.b.hear(each)
    assert (pair.b.link.digest_parts(), pair.b.got[True], pair.b.sends()) == (before, got, [])
