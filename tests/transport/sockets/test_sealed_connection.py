"""One sealed connection: what leaves is what comes, however it is cut, and a part of a record is nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.transport.sockets.sealed_kit import (
    RawEnd,
    both_ends,
    close_sockets,
    connection_of,
    message,
    socket_pair,
    tcp_pair,
)
from transport.errors import BadRecord
from transport.limits import Limits
from transport.sockets.sealed_connection import AT_ONCE_BYTES, WAITING_FRAMES, SealedConnection
from transport.sockets.upload_gate import UploadGate


@pytest.fixture(autouse=True)
def _no_socket_is_left() -> Iterator[None]:
    yield
    close_sockets()


def received(connection: SealedConnection) -> list[tuple[bytes, bytes | None]]:
    """All that is there."""
    found = []
    while (frame := connection.receive(waits=False)) is not None:
        found.append((frame.header, None if frame.payload is None else bytes(frame.payload)))
    return found


def test_frames_arrive_as_they_were_with_and_without_a_payload() -> None:
    ours, theirs = both_ends()
    sent: list[tuple[bytes, bytes | None]] = [
        (b"a", b"x" * 1000),
        (b"bb", None),
        (b"c" * 4096, b""),
        (b"d", b"y"),
    ]
    for header, payload in sent:
        assert ours.send(0, message(header, payload))
    assert received(theirs) == sent
    assert ours.num_sent == 4


def test_a_full_socket_leaves_the_rest_for_later() -> None:
    ours, theirs = both_ends()
    payload = os.urandom(1 << 20)
    ours.put(message(b"a", payload))
    ours.put(message(b"b", payload))
    got = []
    while not ours.send_waiting(socket.MSG_DONTWAIT):
        got += received(theirs)
    got += received(theirs)
    assert got == [(b"a", payload), (b"b", payload)]
    assert ours.num_waiting == 0


def test_a_small_message_leaves_at_once_and_a_large_one_waits_for_its_thread() -> None:
    ours, theirs = both_ends()
    ours.sends_at_once = True
    small, large = b"x" * 1000, bytes(AT_ONCE_BYTES)
    assert ours.put(message(b"a", small))
    assert received(theirs) == [(b"a", small)]
    assert ours.num_waiting == 0
    assert ours.put(message(b"b", large))
    assert ours.put(message(b"c", small))  # after what waits
    assert received(theirs) == []
    for _ in range(2):
        assert ours.send(0, ours.queue.get_nowait())
    assert received(theirs) == [(b"b", large), (b"c", small)]


@pytest.mark.parametrize("reason", ["shared", "limited"])
def test_a_small_message_waits_too_where_a_thread_may_be_sending_or_has_a_limit(reason: str) -> None:
    near, far = socket_pair()
    ours = connection_of(near, is_ours=True, gate=UploadGate(1e6 if reason == "limited" else None))
    ours.sends_at_once = reason == "limited"
    assert ours.put(message(b"a", b"x"))
    assert received(connection_of(far)) == []
    assert ours.num_waiting == 1


def test_the_thread_sends_the_rest_of_what_did_not_leave_whole_and_nothing_twice() -> None:
    ours, theirs = both_ends()
    ours.sends_at_once = True
    payload, number = os.urandom(AT_ONCE_BYTES // 2), 0
    while ours.num_waiting < 3:  # one is begun, if the socket took a part of it, and two more wait
        ours.put(message(b"%d" % number, payload))
        number += 1
    got = received(theirs)
    for _ in range(3):
        assert ours.send(0, ours.queue.get_nowait())
        got += received(theirs)
    assert got == [(b"%d" % each, payload) for each in range(number)]
    assert ours.num_waiting == 0


def test_a_small_message_for_a_socket_that_is_gone_ends_the_connection() -> None:
    ours, theirs = both_ends()
    ours.sends_at_once = True
    theirs.break_off()
    assert ours.put(message(b"a", b"x"))
    assert ours.reason is not None
    assert "BrokenPipe" in ours.reason
    with pytest.raises(ConnectionResetError):
        ours.receive(waits=True)


def test_a_connection_that_ends_anywhere_gives_whole_frames_alone() -> None:
    far = RawEnd()
    stream = b"".join(far.record(b"header", payload) for payload in (b"x" * 40, None, b"y" * 9))
    ends = [0]
    for payload in (40, None, 9):
        ends.append(ends[-1] + 32 + 6 + 16 + (0 if payload is None else payload + 16))
    assert ends[-1] == len(stream)
    for num_bytes in range(len(stream) + 1):
        ours, theirs = socket_pair()
        ours.sendall(stream[:num_bytes])
        ours.close()
        connection = connection_of(theirs)
        for _ in range(sum(end <= num_bytes for end in ends[1:])):
            assert connection.receive(waits=True) is not None
        with pytest.raises(ConnectionResetError):
            connection.receive(waits=True)
        theirs.close()


def test_a_changed_byte_ends_it_and_reaches_nobody() -> None:
    far = RawEnd()
    record = bytearray(far.record(b"header", b"x" * 40))
    record[-20] ^= 1
    far.sock.sendall(record)
    with pytest.raises(BadRecord):
        connection_of(far.near).receive(waits=True)


def test_too_much_is_not_put_in() -> None:
    ours, _ = both_ends(Limits(window_bytes=1000, spare_bytes=0))
    assert ours.put(message(b"a", b"x" * 1999))
    assert not ours.put(message(b"a", b"x"))
    many, _ = both_ends()
    assert all(many.put(message(b"a", None)) for _ in range(WAITING_FRAMES))
    assert not many.put(message(b"a", None))


def test_reading_waits_until_frames_are_taken_out() -> None:
    ours, theirs = both_ends(Limits(unread_bytes=1000))
    room: list[bool] = []
    theirs.say_room = lambda: room.append(True)
    ours.send(0, message(b"a", b"x" * 2000))
    frame = theirs.receive(waits=True)
    assert frame is not None
    assert theirs.is_full
    theirs.is_paused = True
    theirs.took(frame)
    assert not theirs.is_full
    assert room == [True]


def test_frames_without_a_payload_make_reading_wait_too() -> None:
    ours, theirs = both_ends(Limits(unread_bytes=10_000))
    for _ in range(30):
        ours.send(0, message(b"a", None))
    num_frames = 0
    while not theirs.is_full:
        assert theirs.receive(waits=True) is not None
        num_frames += 1
    assert num_frames < 25


def test_a_grown_window_may_wait_whole() -> None:
    limits = Limits(window_bytes=1000, spare_bytes=8000)
    ours, _ = both_ends(limits)
    assert ours.put(message(b"a", bytes(limits.largest_window)))
    assert ours.put(message(b"b", b"x"))


def test_a_sender_that_its_limit_holds_back_leaves_soon_after_the_end() -> None:
    near, _ = socket_pair()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        connection.end("the test is over")

    connection = connection_of(near, gate=UploadGate(1000.0, lambda: 0.0, sleep))
    with pytest.raises(OSError, match="Broken pipe"):
        connection.send(0, message(b"a", bytes(60_000)))
    assert len(slept) == 1
    assert slept[0] < 1.0


def test_the_descriptor_lives_until_both_threads_have_left() -> None:
    ours, _ = both_ends()
    ours.end("test")
    ours.leave()
    assert ours.sock.fileno() >= 0
    ours.leave()
    assert ours.sock.fileno() == -1


def test_what_the_other_machine_does_not_have_is_known() -> None:
    near, _ = tcp_pair()
    connection = connection_of(near)
    assert connection.unheard_bytes() == 0
    near.setblocking(False)
    while connection.send(0, message(b"a", bytes(1 << 20))):
        continue
    assert (connection.unheard_bytes() or 0) > 0
    near.close()
    assert connection.unheard_bytes() is None
