"""Headers of records: what our side makes comes back, and every length is bounded before it is used."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import BadMessage
from transport.limits import LIMITS
from transport.sealed.records import (
    HEADER_BYTES,
    MAX_LONG,
    MAX_SHORT,
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    Kind,
    Numbers,
    Record,
    max_sealed_bytes,
    parse,
    taken,
)

LONG = st.integers(0, MAX_LONG)
SHORT = st.integers(0, MAX_SHORT)
NUMBERS = st.builds(Numbers, LONG, LONG, LONG, LONG, LONG, SHORT, SHORT)
PAYLOADS = st.integers(0, LIMITS.payload_bytes)
CHUNKS = st.builds(Record, st.sampled_from([Kind.PART, Kind.MEAN]), st.just(0), PAYLOADS, NUMBERS)
FRAMES = st.builds(Record, st.just(Kind.FRAME), st.integers(1, LIMITS.header_bytes), st.none() | PAYLOADS)
RECORDS = CHUNKS | FRAMES | LONG.map(taken)


def packed(kind: int, prefix: int, has_payload: int, size: int, *numbers: int) -> bytes:
    return struct.pack(">HHIQQQQQQII", kind, prefix, has_payload, size, *numbers)


NONE = (0,) * 7


@given(RECORDS)
def test_a_header_takes_64_bytes_and_comes_back(record: Record) -> None:
    plain = record.pack()
    assert len(plain) == HEADER_BYTES
    assert parse(plain, LIMITS) == record


@given(RECORDS)
def test_a_record_takes_a_tag_for_its_header_its_prefix_and_its_payload(record: Record) -> None:
    prefix = [record.prefix_bytes + TAG_BYTES] if record.prefix_bytes else []
    payload = [record.payload_bytes + TAG_BYTES] if record.payload_bytes is not None else []
    assert record.parts == [*prefix, *payload]
    assert record.sealed_bytes == SEALED_HEADER_BYTES + sum(prefix) + sum(payload) <= max_sealed_bytes(LIMITS)


@pytest.mark.parametrize("kind", [Kind.FRAME, Kind.PART, Kind.MEAN])
def test_a_payload_may_be_as_large_as_the_bound_and_not_larger(kind: Kind) -> None:
    prefix, bound = int(kind is Kind.FRAME), LIMITS.payload_bytes
    for size in (0, bound):
        assert parse(packed(kind, prefix, 1, size, *NONE), LIMITS).payload_bytes == size
    for size in (bound + 1, MAX_LONG):
        with pytest.raises(BadMessage, match="payload of"):
            parse(packed(kind, prefix, 1, size, *NONE), LIMITS)


def test_a_prefix_may_be_as_large_as_the_bound_and_not_larger_nor_nothing() -> None:
    bound = LIMITS.header_bytes
    for size in (1, bound):
        assert parse(packed(Kind.FRAME, size, 0, 0, *NONE), LIMITS).prefix_bytes == size
    for size in (0, bound + 1, (1 << 16) - 1):
        with pytest.raises(BadMessage):
            parse(packed(Kind.FRAME, size, 0, 0, *NONE), LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        packed(0, 1, 0, 0, *NONE),
        packed(5, 1, 0, 0, *NONE),
        packed(Kind.FRAME, 1, 0, 5, *NONE),
        packed(Kind.FRAME, 1, 2, 5, *NONE),
        packed(Kind.FRAME, 1, 1, 5, 0, 0, 0, 0, 0, 0, 1),
        packed(Kind.PART, 1, 1, 5, *NONE),
        packed(Kind.MEAN, 0, 0, 0, *NONE),
        packed(Kind.TAKEN, 0, 1, 0, 7, *NONE[1:]),
        packed(Kind.TAKEN, 3, 0, 0, 7, *NONE[1:]),
        packed(Kind.TAKEN, 0, 0, 0, 7, 1, *NONE[2:]),
    ],
    ids=[
        "no kind",
        "unknown kind",
        "size without",
        "twice",
        "numbers",
        "prefix",
        "no payload",
        "t1",
        "t2",
        "t3",
    ],
)
def test_what_our_side_never_makes_is_refused(header: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(header, LIMITS)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_64_bytes_are_a_record_or_refused(plain: bytes) -> None:
    try:
        record = parse(plain, LIMITS)
    except BadMessage:
        return
    assert record.pack() == plain
    assert record.sealed_bytes <= max_sealed_bytes(LIMITS)
