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
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    Kind,
    Record,
    max_sealed_bytes,
    parse,
)

LARGEST = (1 << 64) - 1
RECORDS = st.builds(
    Record,
    st.just(Kind.FRAME),
    st.integers(1, LIMITS.header_bytes),
    st.none() | st.integers(0, LIMITS.payload_bytes),
)


def packed(kind: int, prefix: int, has_payload: int, size: int) -> bytes:
    return struct.pack(">HHIQ", kind, prefix, has_payload, size)


@given(RECORDS)
def test_a_header_takes_16_bytes_and_comes_back(record: Record) -> None:
    plain = record.pack()
    assert len(plain) == HEADER_BYTES == 16
    assert parse(plain, LIMITS) == record


@given(RECORDS)
def test_a_record_takes_a_tag_for_its_header_its_prefix_and_its_payload(record: Record) -> None:
    payload = [record.payload_bytes + TAG_BYTES] if record.payload_bytes is not None else []
    assert record.parts == [record.prefix_bytes + TAG_BYTES, *payload]
    assert record.sealed_bytes == SEALED_HEADER_BYTES + sum(record.parts) <= max_sealed_bytes(LIMITS)


def test_a_payload_may_be_as_large_as_the_bound_and_not_larger() -> None:
    bound = LIMITS.payload_bytes
    for size in (0, bound):
        assert parse(packed(Kind.FRAME, 1, 1, size), LIMITS).payload_bytes == size
    for size in (bound + 1, LARGEST):
        with pytest.raises(BadMessage, match="payload of"):
            parse(packed(Kind.FRAME, 1, 1, size), LIMITS)


def test_a_prefix_may_be_as_large_as_the_bound_and_not_larger_nor_nothing() -> None:
    bound = LIMITS.header_bytes
    for size in (1, bound):
        assert parse(packed(Kind.FRAME, size, 0, 0), LIMITS).prefix_bytes == size
    for size in (0, bound + 1, (1 << 16) - 1):
        with pytest.raises(BadMessage, match="header of"):
            parse(packed(Kind.FRAME, size, 0, 0), LIMITS)


@pytest.mark.parametrize("kind", [0, 2, (1 << 16) - 1])
def test_a_kind_that_our_side_never_makes_is_refused(kind: int) -> None:
    with pytest.raises(BadMessage, match="kind"):
        parse(packed(kind, 1, 0, 0), LIMITS)


@pytest.mark.parametrize(("has_payload", "size"), [(0, 5), (2, 5), ((1 << 32) - 1, 0)])
def test_a_record_knows_whether_it_has_a_payload(has_payload: int, size: int) -> None:
    with pytest.raises(BadMessage, match="whether"):
        parse(packed(Kind.FRAME, 1, has_payload, size), LIMITS)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_16_bytes_are_a_record_or_refused(plain: bytes) -> None:
    try:
        record = parse(plain, LIMITS)
    except BadMessage:
        return
    assert record.pack() == plain
    assert record.sealed_bytes <= max_sealed_bytes(LIMITS)
