"""Signs of life: who is asked for one, who is left in peace, and when a silent connection is dialled anew."""

from __future__ import annotations

import pytest

from tests.transport.link.kit import LIMITS, Note, Pair, components_of, settled
from transport.effects import Connect
from transport.errors import BadFrame
from transport.frames import from_items, to_items, unpack_items
from transport.link.messages import Ack, Ask, DiskFull


def test_who_is_heard_is_not_asked() -> None:
    pair = settled()
    a, b = pair.a.link, pair.b.link
    said: list[type] = []
    for number in range(20):
        pair.now += 0.4
        b.send_control(pair.now, Note(number, ""))
        pair.deliver()
        a.tick(pair.now)
        said += components_of(pair.a)
    assert said == [Ack] * 3  # that b may forget what arrived, and no more
    pair.deliver()
    pair.now += 0.5
    a.tick(pair.now)
    assert components_of(pair.a) == [Ask]


def test_who_is_spoken_to_and_never_answers_is_asked_too() -> None:
    pair = settled()
    a, b = pair.a.link, pair.b.link
    for number in range(20):
        pair.now += 0.4
        a.send_control(pair.now, Note(number, ""))
        for link, watched in ((a, True), (b, False)):
            link.tick(pair.now, watched)
        pair.deliver()
        assert pair.now - a.last_heard < 1.0


def test_whoever_watches_asks_and_is_answered_by_one_who_does_not() -> None:
    pair = settled()
    a, b = pair.a.link, pair.b.link
    for _ in range(20):
        pair.now += 0.6
        a.tick(pair.now)
        b.tick(pair.now, watched=False)
        assert (components_of(pair.a), components_of(pair.b)) == ([Ask], [])
        assert pair.step()
        assert [type(from_items(unpack_items(send.header)[0])) for _, send in pair.wire] == [Ack]
        pair.deliver()
        assert a.last_heard == pair.now


def test_a_link_that_nobody_watches_is_quiet_and_is_not_dialled_anew() -> None:
    pair = settled()
    for end in (pair.a, pair.b):
        end.link.tick(pair.now + 100.0, watched=False)
        assert not end.out
        assert end.link.deadline() is None


def test_silence_counts_from_when_somebody_minds_it() -> None:
    pair = settled()
    a = pair.a.link
    a.tick(pair.now, watched=False)
    pair.now += 100.0
    a.tick(pair.now)
    assert not pair.a.out
    a.tick(pair.now + 0.5)
    assert components_of(pair.a) == [Ask]
    a.tick(pair.now + 1.9)
    assert not any(isinstance(e, Connect) for e in pair.a.out)
    a.tick(pair.now + 2.0)
    assert any(isinstance(e, Connect) for e in pair.a.out)


def test_what_arrived_is_acknowledged_in_the_end_though_nobody_watches() -> None:
    pair = settled()
    a, b = pair.a.link, pair.b.link
    for link in (a, b):
        link.tick(pair.now, watched=False)
    a.streams.send_bulk(pair.now, Note(1, ""), b"p", "exchange")
    b.send_control(pair.now, Note(1, ""))
    pair.deliver()
    assert a.streams.kept().bulk_out == b.streams.kept().control_out == 1
    pair.now += 2.1
    for link in (a, b):
        link.tick(pair.now, watched=False)
    pair.deliver()
    assert a.streams.kept().bulk_out == b.streams.kept().control_out == 0
    assert a.deadline() is b.deadline() is None


def test_what_was_acknowledged_beside_bulk_is_not_acknowledged_again() -> None:
    pair = settled()
    a, b = pair.a.link, pair.b.link
    pair.now += 100.0
    for number in range(10):
        for link in (a, b):
            link.streams.send_bulk(pair.now, Note(number, ""), b"p", "exchange")
        pair.deliver()
        for link in (a, b):
            link.tick(pair.now, watched=False)
        assert not pair.a.out
        assert not pair.b.out
        pair.now += 1.0


def test_that_a_disk_is_full_is_told_beside_the_stream_and_is_no_sign_of_life() -> None:
    pair = Pair()
    pair.a.link.say_disk_full(pair.now)
    assert not pair.a.out, "nobody greeted yet"
    pair.settle()
    pair.deliver()
    heard_at = pair.b.link.last_heard
    pair.now += 1.0
    pair.a.link.send_control(pair.now, Note(7, ""))
    pair.wire.clear()
    pair.a.out.clear()  # a message that waits for a decision
    pair.a.link.say_disk_full(pair.now)
    pair.deliver()
    assert pair.b.events[-1] == DiskFull()
    assert pair.b.control == []
    assert pair.b.link.last_heard == heard_at

    def flood() -> None:
        for _ in range(11 * LIMITS.control_per_second):
            pair.b.link.receive(pair.now, 0, [to_items(DiskFull())], None)

    with pytest.raises(BadFrame, match="per second"):
        flood()


def test_a_flood_of_questions_is_a_bad_frame() -> None:
    pair = Pair()
    pair.settle()
    a, b = pair.a.link, pair.b.link
    ask = to_items(Ask(*a.session, *b.session, 0, 0, 0, 0))

    def flood() -> None:
        for _ in range(11 * LIMITS.control_per_second):
            b.receive(pair.now, 0, [ask], None)

    with pytest.raises(BadFrame, match="per second"):
        flood()


def test_a_silent_connection_is_dialled_anew() -> None:
    pair = Pair()
    pair.settle()
    pair.a.out.clear()
    pair.a.link.tick(pair.now + 100.0)
    assert any(isinstance(e, Connect) for e in pair.a.out)
