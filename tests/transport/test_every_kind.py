"""Every registered kind of message: valid values come back as they were, and no mutation is believed."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import peers.coordinator.journal
import peers.protocol.messages  # they register their kinds
import transport.collectives.chunks
import transport.collectives.fetch
import transport.link.messages
import transport.sealed.messages
from transport.errors import BadFrame
from transport.frames import Between, from_items, kinds, pack, to_items, unpack
from transport.limits import LIMITS

HOMES = (
    peers.coordinator.journal,
    peers.protocol.messages,
    transport.collectives.chunks,
    transport.collectives.fetch,
    transport.link.messages,
    transport.sealed.messages,
)
KINDS = [cls for cls in kinds().values() if cls.__module__ in {home.__name__ for home in HOMES}]


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Valid values of a field, edges included."""
    bounds = Between(0, 1)
    if get_origin(hint) is Annotated:
        hint, bounds, *fits = get_args(hint)
        if fits:
            return st.sampled_from([fits[0].example, f"tcp://{'a' * int(bounds.high - 8)}:1"])
    low, high = bounds.low, bounds.high
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[-1] is Ellipsis:
            return st.lists(values_of(items[0]), min_size=int(low), max_size=int(min(high, 4))).map(tuple)
        return st.tuples(*(values_of(item) for item in items))
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(int(low), int(high))
    if hint is float:
        return st.floats(low, high, allow_nan=False)
    max_size = int(min(high, max(low, 40)))
    if hint is str:  # bounds count bytes, of which a character may take four
        return st.text(st.characters(codec="utf-8"), min_size=int(low), max_size=max(int(low), max_size // 4))
    return st.binary(min_size=int(low), max_size=max_size)


def messages_of(cls: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    return st.tuples(*(values_of(hint) for hint in hints.values())).map(lambda values: cls(*values))


MESSAGES = st.sampled_from(KINDS).flatmap(messages_of)


def test_all_layers_have_kinds() -> None:
    assert {cls.__module__ for cls in KINDS} == {home.__name__ for home in HOMES}


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
@settings(max_examples=10)
@given(data=st.data())
def test_a_valid_message_comes_back_as_it_was(cls: type, data: st.DataObject) -> None:
    message = data.draw(messages_of(cls))
    header = pack(message)
    assert len(header) <= LIMITS.header_bytes
    assert unpack(header) == message
    assert type(unpack(header)) is cls


@given(message=MESSAGES, data=st.data())
def test_a_truncated_message_is_a_bad_frame(message: Any, data: st.DataObject) -> None:
    header = pack(message)
    with pytest.raises(BadFrame):
        unpack(header[: data.draw(st.integers(0, len(header) - 1))])


@settings(max_examples=200)
@given(message=MESSAGES, data=st.data())
def test_flipped_bytes_give_a_valid_message_or_a_bad_frame(message: Any, data: st.DataObject) -> None:
    header = bytearray(pack(message))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = unpack(bytes(header))
    except BadFrame:
        return
    assert from_items(to_items(found)) == found


@given(message=MESSAGES, data=st.data())
def test_a_field_of_another_type_is_a_bad_frame(message: Any, data: st.DataObject) -> None:
    items = to_items(message)
    assume(len(items) > 1)
    at = data.draw(st.integers(1, len(items) - 1))
    items[at] = data.draw(st.sampled_from([None, {}, {"a": 1}, [[[[]]]], -1, 1 << 63, float("nan")]))
    with pytest.raises(BadFrame):
        unpack(msgpack.packb(items))


@pytest.mark.parametrize(
    "bomb",
    [
        msgpack.packb([{}] * 250),
        b"\x81" + b"\x81\xa1a" * 1300 + b"\xc0",
        b"\x92\x01" + b"\x91" * 3000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff" + b"x" * 10,
        b"\xdb\xff\xff\xff\xff" + b"x" * 10,
        b"\x82\xa1a\x01\xa1a\x02",  # one key twice
        b"\x81\x90\x01",  # a key that is an array
        b"\x92\x01\xa1\xff",  # text that is no UTF-8
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x91\xcf" + b"\xff" * 8,
        b"\xc1",
        b"",
        b"\x91\x01\x91\x01",  # something behind the end
    ],
    ids=lambda bomb: bomb[:6].hex() or "empty",
)
def test_what_is_built_to_hurt_is_a_bad_frame(bomb: bytes) -> None:
    with pytest.raises(BadFrame):
        unpack(bomb)


def test_an_array_longer_than_any_of_ours_is_refused_while_it_is_unpacked() -> None:
    with pytest.raises(BadFrame, match="does not decode"):
        unpack(msgpack.packb([1, [0] * (LIMITS.message_items + 1)]))
