"""A link: everything sent arrives once and control in order, whatever happens to the connections."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.link.kit import LIMITS, End, Note, Pair, grant_everything
from transport.errors import BadFrame
from transport.frames import pack_items, to_items, unpack_items
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


def test_a_peer_that_grants_everything_and_acknowledges_nothing_makes_us_keep_a_bounded_window() -> None:
    pair = Pair()
    pair.settle()
    grant_everything(pair)
    while pair.a.link.streams.room() >= 500:
        pair.a.link.streams.send_bulk(pair.now, Note(1, ""), b"p" * 500, "exchange")
    kept = pair.a.link.streams.kept()
    assert kept.bulk_out > 5
    assert LIMITS.window_bytes < kept.bulk_out_cost <= LIMITS.largest_window


def test_bulk_with_gaps_that_no_window_explains_is_refused() -> None:
    pair = Pair()
    pair.settle()
    a, b = pair.a.link, pair.b.link

    def bulk(seq: int) -> None:
        ack = to_items(Ack(*a.session, *b.session, 0, 0, 0, seq))
        for arrival in b.receive(pair.now, 1, [ack, to_items(Note(0, ""))], b""):
            assert isinstance(arrival, Arrival)
            b.streams.consumed(pair.now, arrival.cost)

    max_frames = LIMITS.largest_window // FRAME_COST
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
        assert kept.bulk_seen <= LIMITS.largest_window // FRAME_COST
        assert kept.unconsumed_cost <= LIMITS.window_bytes + 2000 + FRAME_COST


def test_words_of_a_session_that_has_not_greeted_are_not_believed() -> None:
    pair = Pair()
    pair.settle()
    b = pair.b.link
    ungreeted = Ack(9, 1, *b.session, 0, 0, 0, 1)
    assert b.receive(pair.now, 0, [to_items(ungreeted), to_items(Note(0, ""))], None) == []
