"""Messages of very many parts, which libzmq keeps whole until the last one came (R1).

Whoever sends one is cut off while it is still coming. Honest bulk traffic never is, however slowly it is
read. All of it is for Linux, which counts what came over a connection."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from threading import Thread

import pytest
import zmq

from tests.hostile.test_hostile_sockets import client, half_open, was_barred
from tests.net.stalling import line
from tests.net.swarm_kit import Disk, Node, eventually, never, running
from transport.effects import Connect, Send, Store
from transport.errors import KnockTimeout
from transport.keys import KeyPair, random_pair
from transport.limits import KIB, LIMITS, MIB
from transport.sockets.libzmq import Reader, knock
from transport.sockets.traces import PeerClosedTrace
from transport.sockets.unread import TOO_MUCH, wire_bytes
from transport.sockets.wire import frame_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what came")

SMALL = replace(LIMITS, unfinished_bytes=256 * KIB, fresh_bytes=512 * KIB)


@pytest.fixture
def swarm() -> Iterator[tuple[Node, Node, KeyPair]]:
    """A host, a member that has its answers from it until the end, and a rogue that is admitted."""
    host, member, rogue = Node(limits=SMALL), Node(bind=None), random_pair()
    host.admit(member.key)
    host.admit(rogue.public)
    with running(host, member):
        member.dial(host)
        yield host, member, rogue
        before = len(member.core.received)
        member.do(Send(host.key, 0, b"echo"))
        eventually(lambda: len(member.core.received) > before)
        assert member.core.down == []


def parts_of(num_bytes: int, part_bytes: int = 0) -> list[bytes]:
    """A message of somewhat more bytes on the wire, all its parts alike."""
    return [bytes(part_bytes)] * (num_bytes // wire_bytes(part_bytes) + 10)


def reasons(node: Node) -> list[str]:
    return [trace.reason for trace in node.traced(PeerClosedTrace)]


@pytest.mark.parametrize("part_bytes", [0, 222, 223, 64 * KIB])
def test_whoever_sends_a_message_without_end_is_cut_off_and_refused_for_a_while(
    swarm: tuple[Node, Node, KeyPair], part_bytes: int
) -> None:
    host, _, rogue = swarm
    with line(host.address, up=MIB) as stalling, client(stalling.address, host.key, rogue) as sock:
        sock.send(frame_of(0, b"well-behaved so far"))
        eventually(lambda: host.core.received)
        sock.send_multipart(parts_of(MIB, part_bytes))
        eventually(lambda: was_barred(host, rogue))
        eventually(lambda: stalling.num_broken)
    assert reasons(host) == [TOO_MUCH]


def test_a_message_of_very_many_parts_that_comes_whole_is_refused_once(
    swarm: tuple[Node, Node, KeyPair],
) -> None:
    host, _, rogue = swarm
    with client(host.address, host.key, rogue) as sock:
        sock.send(frame_of(0, b"well-behaved so far"))
        eventually(lambda: host.core.received)
        sock.send_multipart(parts_of(700 * KIB))
        eventually(lambda: was_barred(host, rogue))
        never(lambda: len(reasons(host)) > 1, 0.3)


def test_a_peer_that_was_closed_while_it_sends_bulk_is_not_kept_out_for_that() -> None:
    host, member = Node(limits=SMALL), Node(bind=None)
    host.admit(member.key)
    payload = bytes(LIMITS.payload_bytes // 8)
    with running(host, member):
        member.dial(host)
        member.do(Send(host.key, 1, b"x"))
        eventually(lambda: host.core.received)
        member.do(*[Send(host.key, 1, b"x", payload) for _ in range(400)])
        host.close(member.key)
        eventually(lambda: (host.key, 1) in member.core.down)
        assert reasons(host) == ["test"]
        assert not was_barred(host, member.keys)


def test_a_message_without_end_as_the_first_of_a_connection_is_cut_off_and_its_key_refused_too(
    swarm: tuple[Node, Node, KeyPair],
) -> None:
    host, member, rogue = swarm
    with (
        line(host.address, up=MIB, source="127.0.0.2") as stalling,
        client(stalling.address, host.key, rogue) as sock,
    ):
        sock.send_multipart(parts_of(MIB))
        eventually(lambda: stalling.num_broken)
        eventually(lambda: was_barred(host, rogue))
    assert reasons(host)[0] == TOO_MUCH
    assert not was_barred(host, member.keys)
    eventually(lambda: half_open(host) == 2)  # the member's, over which nothing came either


def test_where_it_is_not_known_whose_a_fresh_connection_is_it_is_cut_and_no_key_is_refused(
    swarm: tuple[Node, Node, KeyPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.sockets.admissions.LAG_S", 600.0)
    host, member, rogue = swarm
    with line(host.address, up=MIB) as stalling, client(stalling.address, host.key, rogue) as sock:
        sock.setsockopt(zmq.RECONNECT_IVL, -1)
        sock.send_multipart(parts_of(MIB))
        eventually(lambda: stalling.num_broken)
    assert reasons(host) == [TOO_MUCH]
    assert not was_barred(host, rogue), "the member came from the same address at about the same time"
    assert not was_barred(host, member.keys)


def test_connections_over_which_nothing_came_yet_share_one_bound_and_the_largest_go_first(
    swarm: tuple[Node, Node, KeyPair],
) -> None:
    host, member, rogue = swarm
    with (
        ExitStack() as stack,
        line(host.address, up=200 * KIB) as full,
        line(host.address, up=50 * KIB) as small,
    ):
        small_one = stack.enter_context(client(small.address, host.key, rogue))
        small_one.send(frame_of(0, b"x", bytes(60 * KIB)))
        for _ in range(4):
            each = stack.enter_context(client(full.address, host.key, rogue))
            each.reconnect_ivl = -1
            each.send_multipart(parts_of(MIB))
        eventually(lambda: full.num_broken == 2)
        never(lambda: full.num_broken > 2)
        assert small.num_broken == 0
        small.carry(MIB)
        eventually(lambda: [frame[2] for frame in host.core.received if frame[0] != member.key] == [b"x"])


def test_a_holder_of_a_ticket_that_has_its_answer_is_watched_as_well(
    swarm: tuple[Node, Node, KeyPair],
) -> None:
    host, _, _ = swarm
    invite = random_pair()
    host.admit(invite.public, "invite")
    with line(host.address, up=MIB) as stalling, client(stalling.address, host.key, invite) as sock:
        sock.send(frame_of(0, b"me"))
        assert sock.poll(5000)
        sock.send_multipart(parts_of(MIB))
        eventually(lambda: was_barred(host, invite))
    assert reasons(host) == [TOO_MUCH]


def test_a_message_that_trickles_in_and_stays_small_is_waited_for(
    swarm: tuple[Node, Node, KeyPair],
) -> None:
    host, member, rogue = swarm
    with line(host.address, up=1000) as slow, client(slow.address, host.key, rogue) as sock:
        sock.send(frame_of(0, b"x", bytes(4000)))
        for _ in range(10):
            slow.carry(100)
            never(lambda: reasons(host) or slow.num_broken, 0.05)
        member.do(Send(host.key, 0, b"echo"))
        eventually(lambda: member.core.received)
        slow.carry(4000)
        eventually(lambda: [frame for frame in host.core.received if frame[0] == rogue.public])


def test_what_a_connection_has_brought_in_whole_messages_does_not_count(
    swarm: tuple[Node, Node, KeyPair],
) -> None:
    host, _, rogue = swarm
    with client(host.address, host.key, rogue) as sock:
        sock.sndtimeo = 10_000
        for size in (0, 1, 222, 223, 4096) * 200:
            sock.send(frame_of(0, b"x", bytes(size)))
        for _ in range(20):
            sock.send(frame_of(0, b"x", bytes(200 * KIB)))
        eventually(lambda: len(host.core.received) == 1020)
        never(lambda: reasons(host))


def test_whoever_sends_a_message_without_end_is_cut_off_while_the_journal_cannot_be_written() -> None:
    rogue, disk = random_pair(), Disk()
    host = Node(limits=replace(SMALL, unread_bytes=MIB), disk=disk)
    host.admit(rogue.public)
    with (
        running(host),
        line(host.address, up=4 * MIB) as stalling,
        client(stalling.address, host.key, rogue) as sock,
    ):
        sock.send(frame_of(0, b"x"))
        eventually(lambda: host.core.received)
        host.do(Store(b"decided"))
        sock.send_multipart(parts_of(4 * MIB))
        eventually(lambda: was_barred(host, rogue))
        eventually(lambda: stalling.num_broken)
        assert host.driver.unwritten
        disk.room = True
        eventually(lambda: host.driver.unwritten is None)


def test_whoever_dials_hangs_up_on_an_acceptor_that_sends_a_message_without_end() -> None:
    member, keys = Node(bind=None, limits=SMALL), random_pair()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.ROUTER)
    sock.linger, sock.curve_server, sock.curve_secretkey = 0, 1, keys.secret
    port = sock.bind_to_random_port("tcp://127.0.0.1")
    try:
        with line(f"tcp://127.0.0.1:{port}", down=MIB) as stalling, running(member):
            member.do(Connect(keys.public, (stalling.address,), 0))
            eventually(lambda: member.core.up)
            member.do(Send(keys.public, 0, b"hello"))
            assert sock.poll(5000)
            sock.send_multipart([sock.recv_multipart()[0], *parts_of(MIB)])
            eventually(lambda: member.core.down)
            assert reasons(member) == [TOO_MUCH]
    finally:
        context.destroy(0)


def test_whoever_asks_a_host_that_answers_without_end_hangs_up() -> None:
    keys, context = random_pair(), zmq.Context[zmq.Socket[bytes]]()
    sock = context.socket(zmq.ROUTER)
    sock.linger, sock.curve_server, sock.curve_secretkey = 0, 1, keys.secret
    port = sock.bind_to_random_port("tcp://127.0.0.1")

    def ask(address: str) -> None:
        with suppress(KnockTimeout):
            knock(address, keys.public, random_pair(), b"me", 8.0, SMALL)

    try:
        with line(f"tcp://127.0.0.1:{port}", down=MIB) as stalling:
            thread = Thread(target=ask, args=(stalling.address,))
            thread.start()
            for _ in range(2):
                assert sock.poll(6_000), "it hangs up and asks again"
                sock.send_multipart([sock.recv_multipart()[0], *parts_of(MIB)])
            eventually(lambda: stalling.num_broken >= 2)
        context.destroy(0)
        thread.join()
    finally:
        context.destroy(0)


def test_everything_of_ours_is_a_message_of_one_part_both_ways() -> None:
    """libzmq ends a process whose connection is cut while a message of several parts is half sent."""
    host, member, guest, keys = Node(), Node(bind=None), random_pair(), random_pair()
    host.admit(guest.public)
    context = zmq.Context[zmq.Socket[bytes]]()
    sock = context.socket(zmq.ROUTER)
    sock.linger, sock.rcvtimeo, sock.curve_server, sock.curve_secretkey = 0, 5000, 1, keys.secret
    port = sock.bind_to_random_port("tcp://127.0.0.1")
    payload = bytes(range(256)) * 1024
    try:
        with running(member):
            member.do(Connect(keys.public, (f"tcp://127.0.0.1:{port}",), 1))
            eventually(lambda: len(member.core.up) == 2)
            member.do(Send(keys.public, 0, b"hello"), Send(keys.public, 1, b"bulk", payload))
            said = sorted([sock.recv_multipart()[1:] for _ in range(2)], key=lambda parts: len(parts[0]))
            assert said == [[frame_of(0, b"hello")], [frame_of(1, b"bulk", payload)]]
    finally:
        context.destroy(0)
    with running(host), client(host.address, host.key, guest) as asking:
        asking.rcvtimeo = 5000
        asking.send(frame_of(0, b"hello"))
        eventually(lambda: host.core.received)
        host.do(Send(guest.public, 0, b"hello"))
        assert asking.recv_multipart() == [frame_of(0, b"hello")]


def test_large_exchanges_with_whoever_reads_slowly_are_never_cut() -> None:
    host, member = Node(), Node(bind=None)
    host.admit(member.key)
    payload = bytes(LIMITS.payload_bytes)
    with running(host, member):
        member.dial(host)
        for _ in range(2):
            before = len(member.core.received)
            host.block(0.7)
            member.do(*[Send(host.key, 1, b"echo", payload) for _ in range(40)])
            member.block(0.7)
            host.block(0.7)
            eventually(lambda before=before: len(member.core.received) == before + 40)
        assert reasons(host) == reasons(member) == []
        assert host.core.ends == member.core.down == []


def test_bulk_that_nobody_reads_while_the_journal_cannot_be_written_is_not_cut() -> None:
    disk = Disk()
    host, member = Node(disk=disk), Node(bind=None)
    host.admit(member.key)
    payload = bytes(LIMITS.payload_bytes)
    with running(host, member):
        member.dial(host)
        member.do(Send(host.key, 1, b"echo"))
        eventually(lambda: member.core.received)
        host.do(Store(b"decided"))
        member.do(*[Send(host.key, 1, b"x", payload) for _ in range(40)])
        never(lambda: reasons(host), 0.5)
        disk.room = True
        eventually(lambda: len(host.core.received) == 41)
        assert member.core.down == []


def test_parts_beyond_the_first_few_are_dropped_some_at_a_time() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender, receiver = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        receiver.bind("inproc://parts")
        sender.connect("inproc://parts")
        sender.send_multipart([b"x"] * 3000)
        sender.send_multipart([b"next"])
        reader = Reader(receiver)
        first = reader.read()
        assert first is not None
        assert len(first) == 3
        assert not reader.is_drained
        pauses = 0
        while (found := reader.read()) is None:
            assert not reader.is_drained
            assert receiver.getsockopt(zmq.EVENTS) & zmq.POLLIN, "whoever polls it comes back to it"
            pauses += 1
        assert pauses == 2
        assert [each.bytes for each in found] == [b"next"]
        assert reader.read() is None
        assert reader.is_drained
    finally:
        context.destroy(0)
