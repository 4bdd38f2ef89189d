"""The small parts of the socket driver: shape, queue, rate, connections."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.errors import BadMessage
from transport.limits import Limits
from transport.sockets.wire import (
    AcceptedConnection,
    AcceptedConnections,
    Outbox,
    Outgoing,
    RateLimiter,
    frame_of,
    parse,
)

LIMITS = Limits(header_bytes=8, payload_bytes=16, lanes=2, control_queue=2, window_bytes=64, spare_bytes=0)


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


def message(size: int = 1) -> Outgoing:
    return Outgoing(0, b"h" * size, None, "control", False)


def connection(route: bytes, peer: bytes = b"p", lane: int = 0) -> AcceptedConnection:
    return AcceptedConnection(peer, lane, route, None, Outbox(LIMITS))


def told_by(frame: bytes) -> tuple[int, bytes, bytes | None] | None:
    """What a frame says by the text of the protocol, within these limits."""
    if len(frame) < 3 or not (frame[-1] <= 2 or frame[-1] in (254, 255)):
        return None
    length, rest = int.from_bytes(frame[-3:-1], "big"), frame[:-3]
    length, has_payload = length % 32768, length >= 32768
    payload, header = rest[: len(rest) - length], rest[len(rest) - length :]
    if length > min(8, len(rest)) or len(payload) > 16 or (payload and not has_payload):
        return None
    if has_payload and frame[-1] == 255:
        return None
    return frame[-1], header, payload if has_payload else None


RUBBISH = st.binary(max_size=30) | st.builds(
    lambda rest, high, low, lane: rest + bytes([high, low, lane]),
    st.binary(max_size=28),
    st.sampled_from([0, 128, 1, 255]),
    st.integers(0, 12),
    st.sampled_from([0, 1, 2, 3, 254, 255]),
)


@given(RUBBISH)
@settings(max_examples=600)
def test_only_our_shape_is_taken(frame: bytes) -> None:
    wanted = told_by(frame)
    if wanted is None:
        with pytest.raises(BadMessage):
            parse(views(frame), LIMITS)
    else:
        lane, header, payload = parse(views(frame), LIMITS)
        assert (lane, header, payload if payload is None else bytes(payload)) == wanted


@given(
    st.sampled_from([0, 1, 2]), st.binary(max_size=8), st.none() | st.binary(max_size=16), st.integers(1, 16)
)
def test_what_is_framed_is_told(lane: int, header: bytes, payload: bytes | None, cut: int) -> None:
    frame = frame_of(lane, header, payload)
    assert told_by(frame) == (lane, header, payload)
    assert len(frame) == Outgoing(lane, header, payload, "bulk", False).size_bytes
    beyond = frame[:-cut]
    if told_by(beyond) is None:
        with pytest.raises(BadMessage):
            parse(views(beyond), LIMITS)


@pytest.mark.parametrize("parts", [(), (b"\0", b"header"), (b"\0", b"header", b"payload")])
def test_a_message_of_several_parts_is_refused_with_what_to_do(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(BadMessage, match="an older diloco had: install the same one"):
        parse(views(*parts), LIMITS)


def test_a_payload_that_came_is_not_copied() -> None:
    buffer = bytearray(frame_of(0, b"h", b"abc"))
    _, _, payload = parse([memoryview(buffer)], LIMITS)
    buffer[0] = 120
    assert payload == b"xbc"


def test_an_outbox_keeps_order_and_is_bounded_in_frames_and_bytes() -> None:
    box = Outbox(LIMITS)
    assert [box.push(message()) for _ in range(9)] == [True] * 8 + [False]
    box.pop()
    assert len(box) == 7
    box.clear()
    big = Outgoing(1, b"h", memoryview(bytes(100)).cast("I"), "bulk", False)
    assert big.size_bytes == 104
    assert box.push(big)
    assert box.push(big)
    assert not box.push(big)
    assert box.peek() is big


def test_pace_allows_bursts_and_then_the_rate() -> None:
    pace = RateLimiter(60)
    assert sum(pace.take(0.0) for _ in range(100)) == 15
    assert sum(pace.take(2.0) for _ in range(100)) == 2


def test_a_newer_connection_replaces_the_older_and_its_late_messages_are_gone() -> None:
    table = AcceptedConnections(LIMITS)
    assert table.add(connection(b"1")) is None
    replaced = table.add(connection(b"2"))
    assert replaced is not None
    assert replaced.route == b"1"
    assert table.is_gone(b"1")
    current = table.find(b"p", 0)
    assert current is not None
    assert current.route == b"2"
    assert table.drop(b"1") is None
    assert table.find(b"p", 0) is current


def test_a_connection_stays_with_its_peer_and_lane() -> None:
    table = AcceptedConnections(LIMITS)
    table.add(connection(b"1"))
    assert table.known(b"p", 0, b"1")
    assert not table.known(b"p", 0, b"2")
    for peer, lane in ((b"q", 0), (b"p", 1)):
        with pytest.raises(BadMessage):
            table.known(peer, lane, b"1")


def test_a_connection_that_carries_a_lane_is_known_by_its_descriptor_and_ends() -> None:
    table = AcceptedConnections(LIMITS)
    table.add(AcceptedConnection(b"p", 0, b"route", (7, "ends"), Outbox(LIMITS)))
    assert table.holds((7, "ends"))
    assert not table.holds((7, "other ends"))
    table.drop(b"route")
    assert not table.holds((7, "ends"))
