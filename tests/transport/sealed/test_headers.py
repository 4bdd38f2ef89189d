"""Frames as records and back: the core sees the bytes that the other core sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.collectives.chunks import MeanChunk, PartChunk, ProvedPart
from transport.collectives.fetch import Piece
from transport.effects import Effect, Send
from transport.frames import pack_items, to_items, unpack_items
from transport.limits import LIMITS
from transport.link.link import Link
from transport.link.messages import Ack, Hello, Session
from transport.sealed.headers import header_of, place_of, record_of, sessions_of
from transport.sealed.records import MAX_SHORT, Kind

OURS, THEIRS = (3, 1), (9, 4)
SESSIONS = OURS, THEIRS
COUNTS = st.integers(0, 1 << 62)


def ack(*numbers: int, known: tuple[int, int] = THEIRS) -> list[object]:
    return to_items(Ack(*OURS, *known, *numbers))


@given(st.lists(COUNTS, min_size=4, max_size=4), COUNTS, st.integers(0, MAX_SHORT), st.booleans())
def test_a_part_or_mean_travels_as_numbers_and_its_place_is_known_before_its_payload(
    acks: list[int], serial: int, chunk: int, is_part: bool
) -> None:
    message = (PartChunk if is_part else MeanChunk)(serial, chunk, chunk)
    header = pack_items([ack(*acks), to_items(message)])
    record, prefix = record_of(header, b"payload", SESSIONS)
    assert (record.kind, prefix) == (Kind.PART if is_part else Kind.MEAN, b"")
    assert header_of(record, prefix, SESSIONS) == header
    place = place_of(record)
    assert place is not None
    assert (place.kind, place.serial, place.attempt, place.chunk) == (record.kind, serial, chunk, chunk)


@pytest.mark.parametrize(
    ("items", "payload"),
    [
        ([ack(1, 2, 3, 0)], None),
        ([to_items(Hello(*OURS, *THEIRS, 1, 2, 3, True))], None),
        ([ack(1, 2, 3, 4), to_items(Piece(b"b" * 32, 1, False))], b"a piece"),
        ([ack(1, 2, 3, 4), to_items(Piece(b"b" * 32, 1, False))], b""),
        ([ack(1, 2, 3, 4), to_items(PartChunk(1, 2, 3))], None),
        ([ack(1, 2, 3, 4), to_items(PartChunk(1, 2, MAX_SHORT + 1))], b"p"),
        ([ack(1, 2, 3, 4, known=(9, 5)), to_items(PartChunk(1, 2, 3))], b"of another session"),
        ([ack(1, 2, 3, 4), to_items(ProvedPart(1, 2, 3, (b"h" * 32,), b"s" * 64))], b"p"),
    ],
    ids=["ack", "hello", "piece", "empty piece", "no payload", "large chunk", "session", "proved"],
)
def test_every_other_frame_keeps_its_header(items: list[object], payload: bytes | None) -> None:
    header = pack_items(items)
    record, prefix = record_of(header, payload, SESSIONS)
    assert (record.kind, prefix) == (Kind.FRAME, header)
    assert record.payload_bytes == (None if payload is None else len(payload))
    assert header_of(record, prefix, SESSIONS) == header
    assert place_of(record) is None


def test_the_sessions_are_those_of_the_greeting_that_both_ends_have_said() -> None:
    """Whatever two cores say to each other until the link is up, in either order, tells both drivers."""
    out: dict[bytes, list[Effect]] = {b"a": [], b"b": []}
    sessions = {b"a": Session(5, 2), b"b": Session(7, 0)}
    links = {
        name: Link(
            peer,
            sessions[name],
            dials=name == b"a",
            addresses=("tcp://1.2.3.4:5",),
            heartbeat_s=1.0,
            silence_s=5.0,
            limits=LIMITS,
            out=out[name],
        )
        for name, peer in ((b"a", b"b"), (b"b", b"a"))
    }
    found = {}
    links[b"a"].connected(0.0, 0)
    for _ in range(6):
        for name, peer in ((b"a", b"b"), (b"b", b"a")):
            sent, out[name][:] = list(out[name]), []
            for effect in sent:
                assert isinstance(effect, Send)
                found[name] = sessions_of(effect.header) or found.get(name)
                links[peer].receive(0.0, 0, unpack_items(effect.header), None)
    assert links[b"a"].up
    assert links[b"b"].up
    assert found == {b"a": ((5, 2), (7, 0)), b"b": ((7, 0), (5, 2))}


def test_what_is_no_greeting_or_is_said_to_nobody_tells_no_sessions() -> None:
    assert sessions_of(pack_items([ack(1, 2, 3, 0)])) is None
    assert sessions_of(pack_items([to_items(Hello(*OURS, 0, 0, 0, 0, 0, False))])) is None
    assert sessions_of(pack_items([to_items(Hello(*OURS, *THEIRS, 0, 0, 0, False))])) == SESSIONS
