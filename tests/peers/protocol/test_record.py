"""Commit records: a record's hash names the state that follows, so it covers every field."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.record import GENESIS, Record, genesis_head, record_in
from transport.errors import BadFrame
from transport.frames import pack, unpack

RECORD = Record(b"p" * 32, 3, 0, 1, 9, 100, (b"a" * 32, b"b" * 32), (1.0, 2.0), b"r" * 32)
OTHERS: dict[str, Any] = {
    "parent": b"q" * 32,
    "index": 4,
    "fragment": 1,
    "epoch": 2,
    "serial": 8,
    "chunk_elements": 99,
    "members": (b"b" * 32, b"a" * 32),
    "weights": (2.0, 1.0),
    "result": b"s" * 32,
    "course": 1,
    "former": b"f" * 32,
}


def test_every_field_is_in_the_hash() -> None:
    assert set(OTHERS) == {each.name for each in fields(Record)}
    hashes = {replace(RECORD, **{name: value}).hash() for name, value in OTHERS.items()}
    assert len(hashes | {RECORD.hash()}) == len(OTHERS) + 1


def test_a_record_has_the_same_hash_after_it_has_travelled() -> None:
    assert unpack(pack(RECORD)) == RECORD
    assert unpack(pack(RECORD)).hash() == RECORD.hash()


def test_the_first_head_depends_on_every_fragments_state_in_order() -> None:
    one, other = b"1" * 32, b"2" * 32
    heads = {genesis_head(states) for states in ([one, other], [other, one], [one], [])}
    assert len(heads | {GENESIS}) == 5


def test_a_restoring_record_is_about_the_whole_model() -> None:
    assert not RECORD.restores
    assert replace(RECORD, fragment=ALL_FRAGMENTS).restores


@pytest.mark.parametrize(
    ("chunk_elements", "num_chunks"), [(100, 3), (250, 1), (251, 1), (249, 2), (1, 250), (0, 250)]
)
def test_chunks_cover_the_vector(chunk_elements: int, num_chunks: int) -> None:
    assert replace(RECORD, chunk_elements=chunk_elements).num_chunks(250) == num_chunks


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"members": (), "weights": ()}, "of nothing"),
        ({"fragment": ALL_FRAGMENTS}, "of nothing"),
        ({"weights": (1.0,)}, "one weight for each"),
        ({"fragment": 256}, "no model has"),
    ],
)
def test_what_could_be_no_record_is_none(changes: dict[str, Any], why: str) -> None:
    assert record_in(pack(RECORD)) == RECORD
    with pytest.raises(BadFrame, match=why):
        record_in(pack(replace(RECORD, **changes)))


def test_a_restoring_record_has_no_members() -> None:
    restoring = replace(RECORD, fragment=ALL_FRAGMENTS, members=(), weights=())
    assert record_in(pack(restoring)) == restoring
