"""Threads of sealed lanes: own ones and shared ones carry the same, and who stalls holds up nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.sockets.sealed_kit import RawEnd, Told, both_ends, close_sockets, connection_of, message
from transport.limits import Limits
from transport.sockets.bulk_threads import Ended, LaneThreads

OWN_AND_SHARED = pytest.mark.parametrize("own", [4, 0], ids=["own", "shared"])


@pytest.fixture(autouse=True)
def _no_socket_is_left() -> Iterator[None]:
    yield
    close_sockets()


@OWN_AND_SHARED
def test_what_is_put_in_comes_out_at_the_other_end_in_order_and_then_the_end(own: int) -> None:
    told = Told()
    threads = LaneThreads(told.put, own, 2)
    ours, theirs = both_ends()
    threads.serve(ours)
    threads.serve(theirs)
    payloads = [bytes([i]) * (1 << 18) for i in range(20)]
    for number, payload in enumerate(payloads):
        ours.put(message(b"%d" % number, payload))
    assert [told.frame() for _ in payloads] == [(b"%d" % i, p) for i, p in enumerate(payloads)]
    ours.end("test")
    ends = [told.next(), told.next()]
    assert {each.connection for each in ends if isinstance(each, Ended)} == {ours, theirs}
    theirs.end("test")
    threads.close()
    assert ours.sock.fileno() == theirs.sock.fileno() == -1


@OWN_AND_SHARED
def test_reading_goes_on_when_there_is_room_again(own: int) -> None:
    told = Told()
    threads = LaneThreads(told.put, own, 1)
    ours, theirs = both_ends(Limits(unread_bytes=100_000))
    threads.serve(theirs)
    threads.serve(ours)
    for number in range(50):
        ours.put(message(b"%d" % number, bytes(30_000)))
    assert [told.frame()[0] for _ in range(50)] == [b"%d" % number for number in range(50)]
    for each in (ours, theirs):
        each.end("test")
    threads.close()


def test_four_that_stall_in_a_record_do_not_hold_up_a_fifth_on_the_same_thread() -> None:
    told = Told()
    threads = LaneThreads(told.put, 0, 1)
    stalling = [RawEnd() for _ in range(4)]
    for far in stalling:
        record = far.record(b"header", bytes(100_000))
        far.sock.sendall(record[: len(record) // 2])
    connections = [connection_of(far.near) for far in stalling]
    for each in connections:
        threads.serve(each)
    ours, theirs = both_ends()
    threads.serve(theirs)
    threads.serve(ours)
    for number in range(200):
        ours.put(message(b"%d" % number, bytes(50_000)))
    assert [told.frame()[0] for _ in range(200)] == [b"%d" % number for number in range(200)]
    for each in (ours, theirs, *connections):
        each.end("test")
    threads.close()


def test_connections_beyond_the_first_ones_share_threads() -> None:
    told = Told()
    threads = LaneThreads(told.put, 2, 1)
    pairs = [both_ends() for _ in range(4)]
    for ours, theirs in pairs:
        threads.serve(ours)
        threads.serve(theirs)
    for number, (ours, _) in enumerate(pairs):
        ours.put(message(b"%d" % number, b"x"))
    assert {told.frame()[0] for _ in pairs} == {b"0", b"1", b"2", b"3"}
    for ours, theirs in pairs:
        ours.end("test")
        theirs.end("test")
    threads.close()
    assert all(each.sock.fileno() == -1 for pair in pairs for each in pair)


@OWN_AND_SHARED
def test_a_record_that_nobody_sealed_is_told_as_the_end(own: int) -> None:
    told, far = Told(), RawEnd()
    threads = LaneThreads(told.put, own, 1)
    connection = connection_of(far.near)
    threads.serve(connection)
    far.sock.sendall(bytes(1000))
    end = told.next()
    assert isinstance(end, Ended)
    assert "not what the other end sent" in str(end.error)
    connection.end("test")
    threads.close()
