"""Headers: any bytes are a valid message or a `BadFrame`, and nothing else ever happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import BadFrame
from transport.frames import Between, Count, Key, Number, kind, pack, unpack


@kind(1000)
@dataclass(frozen=True, slots=True)
class Sample:
    count: Count
    keys: Annotated[tuple[Key, ...], Between(0, 3)]
    pair: tuple[Number, Annotated[str, Between(0, 5)]]
    flag: bool


GOOD = Sample(7, (b"k" * 32,), (1.5, "abc"), True)


def test_a_message_comes_back_as_it_was() -> None:
    assert unpack(pack(GOOD)) == GOOD


@given(st.binary(max_size=300))
def test_random_bytes_are_bad_frames(data: bytes) -> None:
    with pytest.raises(BadFrame):
        unpack(data)


@given(st.integers(0, 60))
def test_a_truncated_header_is_a_bad_frame(size: int) -> None:
    whole = pack(GOOD)
    with pytest.raises(BadFrame):
        unpack(whole[: min(size, len(whole) - 1)])


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text(max_size=8)
        | st.binary(max_size=40)
        | st.floats(),
        lambda x: st.lists(x, max_size=5),
        max_leaves=12,
    )
)
def test_other_values_under_our_kind_are_bad_frames(value: object) -> None:
    with pytest.raises(BadFrame):
        unpack(msgpack.packb([1000, value, value, value, value]))


@pytest.mark.parametrize(
    "items",
    [
        [1000, -1, [], [0.0, ""], True],
        [1000, 1 << 63, [], [0.0, ""], True],
        [1000, 1.0, [], [0.0, ""], True],
        [1000, True, [], [0.0, ""], True],
        [1000, 1, [b"short"], [0.0, ""], True],
        [1000, 1, [b"k" * 32] * 4, [0.0, ""], True],
        [1000, 1, [], [float("nan"), ""], True],
        [1000, 1, [], [float("inf"), ""], True],
        [1000, 1, [], [0.0, "toolong"], True],
        [1000, 1, [], [0.0, "", 1], True],
        [1000, 1, [], [0.0, ""], 1],
        [1000, 1, [], [0.0, ""]],
        [1000, 1, [], [0.0, ""], True, 0],
        [999999, 1],
        {"kind": 1000},
        7,
    ],
)
def test_every_bound_is_kept(items: object) -> None:
    with pytest.raises(BadFrame):
        unpack(msgpack.packb(items))


def test_of_a_number_that_is_not_finite_that_is_said() -> None:
    with pytest.raises(BadFrame, match="not finite"):
        unpack(msgpack.packb([1000, 1, [], [float("inf"), ""], True]))


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    bombs = [
        b"\x90" * 1_000_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 4000,
        msgpack.packb(msgpack.ExtType(1, b"x")),
    ]
    for bomb in bombs:
        with pytest.raises(BadFrame):
            unpack(bomb)


def test_a_header_of_ours_that_is_too_long_is_our_bug() -> None:
    @kind(1001)
    @dataclass(frozen=True, slots=True)
    class Long:
        data: Annotated[bytes, Between(0, 10_000)]

    with pytest.raises(ValueError, match="4096"):
        pack(Long(b"x" * 5000))


@pytest.mark.parametrize(("text", "fits"), [("abcde", True), ("éab", True), ("ééa", True), ("ééé", False)])
def test_bounds_of_text_count_bytes_and_not_characters(text: str, fits: bool) -> None:
    message = Sample(7, (), (1.5, text), True)
    if fits:
        assert unpack(pack(message)) == message
    else:
        with pytest.raises(BadFrame, match="outside 0 to 5"):
            unpack(pack(message))
