"""What strangers can do at the bulk port, and members over lanes: be closed, and cost others nothing."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from tests.net.link_core import LinkNode
from tests.net.swarm_kit import eventually, never, running
from transport.effects import Send
from transport.frames import pack
from transport.limits import LIMITS, Limits
from transport.sealed.opening import ask
from transport.sealed.records import Kind, Record
from transport.sockets import driver
from transport.sockets.traces import (
    BulkLaneLostTrace,
    BulkLaneUpTrace,
    PeerClosedTrace,
    TransportFailedTrace,
)
from transport.sockets.wire import DRIVER_LANE

PATIENT = replace(LIMITS, bulk_opening_s=3600.0)
"""Strangers are not closed for their silence."""
MARK = 77_777
"""A payload of so many bytes is that of a member that lies about it."""


def bulk_port(host: LinkNode) -> int:
    assert host.driver.bulk_address is not None
    return int(host.driver.bulk_address.rpartition(":")[2])


@contextmanager
def strangers(host: LinkNode, number: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections to the bulk port, over each of which something is said."""
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", bulk_port(host)), 20.0))
            found.append(sock)
            if says:
                sock.sendall(says)
        yield found


def is_closed(sock: socket.socket) -> bool:
    """Whether the other end has hung up by now; it has not said anything before that."""
    sock.setblocking(False)
    try:
        said = sock.recv(64)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    assert said == b"", "a stranger was answered"
    return True


def up(*nodes: LinkNode) -> bool:
    return all(node.traced(BulkLaneUpTrace) for node in nodes)


def comes_once(host: LinkNode, member: LinkNode) -> None:
    """Whatever the member sends to the host comes, each once."""
    payloads = [os.urandom(150_000 + number) for number in range(8)]
    member.puts(host, payloads)
    wanted = {hashlib.sha256(payload).digest() for payload in payloads}
    eventually(lambda: {digest for _, digest in host.linked.arrived} >= wanted)
    digests = [digest for _, digest in host.linked.arrived if digest in wanted]
    assert len(digests) == len(wanted)


@contextmanager
def swarm(*more: LinkNode, limits: Limits = LIMITS) -> Iterator[tuple[LinkNode, LinkNode]]:
    """A host and a member with a lane that stands, and more nodes; at the end it must still carry bulk."""
    host = LinkNode(1, limits=limits)
    member = LinkNode(2, bind=None)
    with running(host, member, *more):
        member.dials(host)
        eventually(lambda: up(host, member))
        yield host, member
        comes_once(host, member)
        assert not host.traced(BulkLaneLostTrace)
        assert not host.traced(TransportFailedTrace)


def test_whoever_says_no_right_opening_is_closed_without_a_word() -> None:
    wrong = [
        b"",
        b"x",
        os.urandom(16),
        os.urandom(31),
        os.urandom(32),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(5_000),
    ]
    with swarm() as (host, _), ExitStack() as stack:
        found = [stack.enter_context(strangers(host, 1, says))[0] for says in wrong]
        eventually(lambda: all(map(is_closed, found)))


def test_an_opening_that_comes_byte_by_byte_is_not_waited_for() -> None:
    with swarm() as (host, _), strangers(host, 1) as (slow,):

        def goes_on() -> bool:
            try:
                slow.send(b"x")
            except OSError:
                return True
            return is_closed(slow)

        for _ in range(31):  # one byte less than would be looked at
            if goes_on():
                break
        eventually(lambda: is_closed(slow))


def test_of_one_address_eight_wait_and_more_are_dropped_at_once() -> None:
    with swarm(limits=PATIENT) as (host, _):
        with strangers(host, 8) as first:
            with strangers(host, 20) as more:
                eventually(lambda: all(map(is_closed, more)))
            assert not any(map(is_closed, first)), "those who were there before are left alone"
        with strangers(host, 8, b"x") as again:  # they are gone, and there is room
            eventually(lambda: sum(map(is_closed, again)) < 8)


def test_who_finds_the_bulk_port_full_has_its_bulk_over_curve() -> None:
    late = LinkNode(3, bind=None)
    with swarm(late, limits=PATIENT) as (host, _), strangers(host, 8):
        late.dials(host)
        comes_once(host, late)
        assert not up(late)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">HHIQ", 2, 40, 1, MARK),
        struct.pack(">HHIQ", Kind.FRAME, 0, 1, MARK),
        struct.pack(">HHIQ", Kind.FRAME, LIMITS.header_bytes + 1, 1, MARK),
        struct.pack(">HHIQ", Kind.FRAME, 40, 0, MARK),
        struct.pack(">HHIQ", Kind.FRAME, 40, 1, LIMITS.payload_bytes + 1),
        struct.pack(">HHIQ", Kind.FRAME, 40, 1, (1 << 64) - 1),
        bytes(16),
    ],
    ids=["kind", "no header", "long header", "payload of none", "long payload", "largest payload", "zeros"],
)
def test_a_member_that_seals_rubbish_is_closed_and_others_notice_nothing(
    header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Record.pack

    def lies(record: Record) -> bytes:
        return header if record.payload_bytes == MARK else honest(record)

    monkeypatch.setattr(Record, "pack", lies)
    liar = LinkNode(3, bind=None)
    with swarm(liar) as (host, _):
        liar.dials(host)
        eventually(lambda: up(liar))
        before = len(host.traced(PeerClosedTrace))
        liar.puts(host, [bytes(MARK)])
        eventually(lambda: len(host.traced(PeerClosedTrace)) > before)
        eventually(lambda: not host.driver.sealed.carries(liar.key, 1))
        host.traces = [each for each in host.traces if not isinstance(each, BulkLaneLostTrace)]  # the liar's


def said_by_a_member(words: list[bytes]) -> None:
    """A member says these to the host's driver, and is closed for that; another one notices nothing."""
    liar = LinkNode(3, bind=None)
    with swarm(liar) as (host, _):
        liar.dials(host)
        eventually(lambda: up(liar))
        liar.says(*(Send(host.key, DRIVER_LANE, word) for word in words))
        eventually(lambda: host.traced(PeerClosedTrace))
        eventually(lambda: not host.driver.sealed.carries(liar.key, 1), 5.0)
        host.traces = [each for each in host.traces if not isinstance(each, BulkLaneLostTrace)]  # the liar's


@pytest.mark.parametrize(
    "word", [b"", b"\xff", b"\x93\xcc\xa5\x01\xc4\x20", pack(ask(200)), os.urandom(300), bytes(4096)], ids=len
)
def test_a_member_that_says_anything_about_lanes_is_closed(word: bytes) -> None:
    said_by_a_member([word])


def test_whoever_broke_the_rules_gets_no_lane_before_it_greets_anew() -> None:
    liar = LinkNode(3, bind=None)
    with swarm(liar) as (host, _):
        liar.dials(host)
        eventually(lambda: up(liar))
        host.run(lambda core, now: host.driver.sealed.give_up_peer(liar.key))
        assert not host.driver.sealed.carries(liar.key, 1)
        never(lambda: host.driver.sealed.carries(liar.key, 1), 1.5)  # it asks again meanwhile
        host.traces = [each for each in host.traces if not isinstance(each, BulkLaneLostTrace)]  # the liar's


def test_a_member_that_asks_for_lanes_without_end_is_closed() -> None:
    said_by_a_member([pack(ask(1)) for _ in range(500)])


def test_where_a_processor_has_no_aes_no_lane_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])  # the host's processor has none
    monkeypatch.setattr(driver, "has_fast_aes", lambda: next(answers))
    host, member = LinkNode(1), LinkNode(2, bind=None)
    with running(host, member):
        member.dials(host)
        comes_once(host, member)
        assert host.driver.bulk_address is None
        assert not up(member)
