"""A link: everything sent arrives once and control in order, whatever happens to the connections."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.effects import Connect, Effect, Send
from transport.errors import BadFrame
from transport.frames import Between, Count, from_items, kind, pack_items, to_items, unpack_items
from transport.limits import Limits
from transport.link.link import Link
from transport.link.messages import (
    NOBODY,
    Ack,
    Arrival,
    Ask,
    DiskFull,
    Hello,
    Session,
    Stale,
    Started,
    Superseded,
)
from transport.link.streams import FRAME_COST

LIMITS = Limits(window_bytes=8 * 1024, buffer_bytes=64 * 1024, payload_bytes=1024, control_per_second=50)


@kind(1100)
@dataclass(frozen=True, slots=True)
class Note:
    number: Count
    text: Annotated[str, Between(0, 16)]


class End:
    """One end of a link and what arrived there."""

    def __init__(
        self, name: bytes, other: bytes, incarnation: int, generation: int = 1, *, dials: bool
    ) -> None:
        self.out: list[Effect] = []
        self.link = Link(
            other,
            Session(incarnation, generation),
            dials=dials,
            addresses=(),
            heartbeat_s=0.5,
            silence_s=2.0,
            limits=LIMITS,
            out=self.out,
        )
        self.control: list[int] = []
        self.bulk: list[int] = []
        self.events: list[object] = []
        self.consumes = True


class Pair:
    """Two ends over connections that a test may break."""

    def __init__(self, incarnations: tuple[int, int] = (5, 5)) -> None:
        self.now = 0.0
        self.a = End(b"a", b"b", incarnations[0], dials=True)
        self.b = End(b"b", b"a", incarnations[1], dials=False)
        self.wire: deque[tuple[End, Send]] = deque()
        self.up = True
        self.a.link.start(0.0)
        self.connect()

    def other(self, end: End) -> End:
        return self.b if end is self.a else self.a

    def connect(self) -> None:
        self.up = True
        for lane in (0, 1):
            self.a.link.connected(self.now, lane)
        self.collect()

    def reset(self) -> None:
        """What is in flight is lost; the dialer notices and dials again."""
        self.wire.clear()
        for lane in (0, 1):
            self.a.link.disconnected(lane)
        self.collect()
        self.wire.clear()
        self.connect()

    def collect(self) -> None:
        for end in (self.a, self.b):
            self.wire.extend((end, e) for e in end.out if isinstance(e, Send))
            end.out.clear()

    def step(self) -> bool:
        """Deliver one frame."""
        self.collect()
        if not self.wire:
            return False
        sender, send = self.wire.popleft()
        end = self.other(sender)
        for result in end.link.receive(self.now, send.lane, unpack_items(send.header), send.payload):
            if not isinstance(result, Arrival):
                end.events.append(result)
            elif result.payload is None:
                end.control.append(result.message.number)
            else:
                end.bulk.append(result.message.number)
                if end.consumes:
                    end.link.streams.consumed(self.now, result.cost)
        self.collect()
        return True

    def deliver(self) -> None:
        while self.step():
            pass

    def settle(self) -> None:
        for _ in range(4):
            self.deliver()
            self.now += 0.6
            for end in (self.a, self.b):
                end.link.tick(self.now)


def test_under_resets_control_arrives_once_in_order_and_bulk_once() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        pair = Pair()
        pair.settle()
        sent = {id(pair.a): [0, 0], id(pair.b): [0, 0]}
        for _ in range(200):
            end = rng.choice((pair.a, pair.b))
            action = rng.random()
            if action < 0.3:
                end.link.send_control(pair.now, Note(sent[id(end)][0], "x"))
                sent[id(end)][0] += 1
                pair.now += 0.05
            elif action < 0.6 and end.link.streams.room() >= 100:
                end.link.streams.send_bulk(pair.now, Note(sent[id(end)][1], "x"), b"p" * 100, "exchange")
                sent[id(end)][1] += 1
            elif action < 0.97:
                pair.step()
            else:
                pair.reset()
        pair.settle()
        for end in (pair.a, pair.b):
            controls, bulks = sent[id(pair.other(end))]
            assert end.control == list(range(controls)), f"seed {seed}"
            assert sorted(end.bulk) == list(range(bulks)), f"seed {seed}"


def test_a_receiver_that_consumes_nothing_stops_its_sender() -> None:
    pair = Pair()
    pair.b.consumes = False
    pair.settle()
    count = 0
    while pair.a.link.streams.room() >= 500:
        pair.a.link.streams.send_bulk(pair.now, Note(count, ""), b"p" * 500, "exchange")
        count += 1
        pair.settle()
        assert count < 100
    assert count * (500 + FRAME_COST) <= LIMITS.window_bytes
    assert len(pair.b.bulk) == count


def grant_everything(pair: Pair) -> None:
    """Let b say that it grants more than it does."""
    a, b = pair.a.link, pair.b.link
    a.receive(pair.now, 0, [to_items(Ack(*b.session, *a.session, 0, 0, 1 << 40, 0))], None)


def test_bulk_beyond_the_credit_is_refused() -> None:
    pair = Pair()
    pair.b.consumes = False
    pair.settle()
    grant_everything(pair)
    for number in range(20):
        pair.a.link.streams.send_bulk(pair.now, Note(number, ""), b"p" * 500, "exchange")
    with pytest.raises(BadFrame, match="credit"):
        pair.settle()


def test_a_new_incarnation_begins_a_new_session_and_old_words_are_void() -> None:
    pair = Pair()
    pair.settle()
    pair.b.link.send_control(pair.now, Note(1, "for the old one"))
    pair.wire.clear()
    pair.a = End(b"a", b"b", 6, dials=True)
    pair.b.out.clear()
    pair.connect()
    pair.settle()
    assert [type(e) for e in pair.b.events] == [Started, Started]
    assert pair.a.control == []
    assert pair.b.link.incarnation == 6


def test_an_older_incarnation_is_told_that_it_is_stale() -> None:
    pair = Pair(incarnations=(5, 5))
    pair.settle()
    newer, older = End(b"a", b"b", 9, dials=True), pair.a
    pair.a = newer
    pair.connect()
    pair.settle()
    pair.a = older
    older.link.send_control(pair.now, Note(1, "a ghost"))
    pair.settle()
    assert any(isinstance(e, Superseded) for e in older.events)
    assert pair.b.control == []


def test_frames_of_an_older_generation_are_ignored() -> None:
    pair = Pair()
    pair.settle()
    pair.a.link.send_control(pair.now, Note(1, "late"))
    pair.collect()
    late = pair.wire.popleft()
    pair.a = End(b"a", b"b", 5, generation=2, dials=True)
    pair.connect()
    pair.settle()
    pair.wire.append((pair.a, late[1]))
    pair.settle()
    assert pair.b.control == []


def test_an_acknowledgement_of_what_was_never_sent_is_a_bad_frame() -> None:
    pair = Pair()
    pair.settle()
    lie = Ack(*pair.b.link.session, *pair.a.link.session, 50, 0, 0, 0)
    with pytest.raises(BadFrame, match="never sent"):
        pair.a.link.receive(pair.now, 0, unpack_items(pack_items([to_items(lie)])), None)


def test_a_flood_of_control_is_a_bad_frame() -> None:
    pair = Pair()
    pair.settle()
    for number in range(11 * LIMITS.control_per_second):
        pair.a.link.send_control(pair.now, Note(number, ""))
    with pytest.raises(BadFrame, match="per second"):
        pair.settle()


def settled() -> Pair:
    """Two ends that have greeted, and nothing on the way."""
    pair = Pair()
    pair.settle()
    pair.deliver()
    return pair


def components_of(end: End) -> list[type]:
    """The kinds of what an end has said and the other did not get yet."""
    return [type(from_items(unpack_items(e.header)[0])) for e in end.out if isinstance(e, Send)]


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


def test_a_peer_that_grants_everything_and_acknowledges_nothing_makes_us_keep_one_window() -> None:
    pair = Pair()
    pair.settle()
    grant_everything(pair)
    while pair.a.link.streams.room() >= 500:
        pair.a.link.streams.send_bulk(pair.now, Note(1, ""), b"p" * 500, "exchange")
    kept = pair.a.link.streams.kept()
    assert kept.bulk_out > 5
    assert kept.bulk_out_cost <= LIMITS.window_bytes


def test_bulk_with_gaps_that_no_window_explains_is_refused() -> None:
    pair = Pair()
    pair.settle()
    a, b = pair.a.link, pair.b.link

    def bulk(seq: int) -> None:
        ack = to_items(Ack(*a.session, *b.session, 0, 0, 0, seq))
        for arrival in b.receive(pair.now, 1, [ack, to_items(Note(0, ""))], b""):
            assert isinstance(arrival, Arrival)
            b.streams.consumed(pair.now, arrival.cost)

    max_frames = LIMITS.window_bytes // FRAME_COST
    for seq in range(2, max_frames + 1, 2):
        bulk(seq)
    with pytest.raises(BadFrame, match="window"):
        bulk(max_frames + 1)
    assert 0 < b.streams.kept().bulk_seen <= max_frames


def test_a_flood_of_greetings_is_a_bad_frame() -> None:
    pair = Pair()
    pair.settle()
    a, b = pair.a.link, pair.b.link
    hello = to_items(Hello(*a.session, *b.session, 0, 0, 0, False))

    def flood() -> None:
        for _ in range(11 * LIMITS.control_per_second):
            b.receive(pair.now, 0, [hello], None)

    with pytest.raises(BadFrame, match="per second"):
        flood()


def test_a_greeting_that_acknowledges_what_was_never_sent_is_a_bad_frame() -> None:
    pair = Pair()
    pair.settle()
    a, b = pair.a.link, pair.b.link
    with pytest.raises(BadFrame, match="never sent"):
        b.receive(pair.now, 0, [to_items(Hello(*a.session, *b.session, 9, 0, 0, False))], None)


NUMBERS = st.sampled_from([0, 1, 2, 3, 7, 1 << 12, 5 << 12, 1 << 62]) | st.integers(0, 1 << 62)
SESSIONS = st.sampled_from([Session(5, 1), Session(5, 0), Session(4, 9), Session(6, 1), NOBODY])
PAIRS = st.tuples(SESSIONS, SESSIONS)
PARTS = st.one_of(
    st.builds(lambda ends, *rest: Hello(*ends[0], *ends[1], *rest), PAIRS, *[NUMBERS] * 3, st.booleans()),
    st.builds(lambda ends, *rest: Ack(*ends[0], *ends[1], *rest), PAIRS, *[NUMBERS] * 4),
    st.builds(lambda ends, *rest: Ask(*ends[0], *ends[1], *rest), PAIRS, *[NUMBERS] * 4),
    st.builds(Stale, NUMBERS),
    st.just(DiskFull()),
    st.builds(Note, NUMBERS, st.just("x")),
).map(to_items)
RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=8) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)
FRAMES = st.tuples(
    st.integers(0, 1),
    st.lists(PARTS | RUBBISH, max_size=3) | RUBBISH,
    st.none() | st.binary(max_size=600) | st.just(b"p" * 2000),
)


@settings(max_examples=150)
@given(st.lists(FRAMES, max_size=25))
def test_whatever_a_member_says_is_taken_ignored_or_a_bad_frame_and_stays_bounded(
    said: list[tuple[int, object, bytes | None]],
) -> None:
    pair = Pair()
    pair.settle()
    link = pair.b.link
    for number in range(10):
        link.send_control(pair.now, Note(number, ""))
        if link.streams.room() > 100:
            link.streams.send_bulk(pair.now, Note(number, ""), b"p" * 100, "exchange")
    for lane, items, payload in said:
        before = link.digest_parts()
        try:
            link.receive(pair.now, lane, items, payload)
        except BadFrame:
            # The peer is closed now; what it may have moved is its own part of the link.
            assert link.digest_parts()[:2] == before[:2]
        kept = link.streams.kept()
        assert kept.control_held <= LIMITS.control_queue + 1
        assert kept.bulk_seen <= LIMITS.window_bytes // FRAME_COST
        assert kept.unconsumed_cost <= LIMITS.window_bytes + 2000 + FRAME_COST


def test_words_of_a_session_that_has_not_greeted_are_not_believed() -> None:
    pair = Pair()
    pair.settle()
    b = pair.b.link
    ungreeted = Ack(9, 1, *b.session, 0, 0, 0, 1)
    assert b.receive(pair.now, 0, [to_items(ungreeted), to_items(Note(0, ""))], None) == []
