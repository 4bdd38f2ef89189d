"""Sealed lanes beside CURVE: they come up, carry bulk, and when they fail everything still comes, once."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.net.link_core import OF_THE_RUN, LinkNode
from tests.net.stalling import ALL, Line, line
from tests.net.swarm_kit import eventually, never, running
from transport.frames import pack
from transport.sealed.messages import NO_QUESTION, LaneOffer
from transport.sockets import bulk_door
from transport.sockets.bulk_threads import LaneThreads
from transport.sockets.sealed_connection import SealedConnection
from transport.sockets.sealed_lanes import Bulk
from transport.sockets.traces import BulkLaneLostTrace, BulkLaneUpTrace, BulkOverControlTrace

_ELSEWHERE = "127.0.0.2"


def pair(
    host_bulk: Bulk | None = OF_THE_RUN, member_bulk: Bulk | None = OF_THE_RUN
) -> tuple[LinkNode, LinkNode]:
    return LinkNode(1, bulk=host_bulk), LinkNode(2, bind=None, bulk=member_bulk)


def is_up(*nodes: LinkNode) -> bool:
    return all(node.traced(BulkLaneUpTrace) for node in nodes)


def exchange(host: LinkNode, member: LinkNode, payloads: list[bytes]) -> None:
    host.puts(member, payloads)
    member.puts(host, payloads)


def all_came_once(payloads: list[bytes], *nodes: LinkNode) -> bool:
    wanted = [(i, hashlib.sha256(payload).digest()) for i, payload in enumerate(payloads)]
    return all(sorted(node.linked.arrived) == wanted for node in nodes)


@contextmanager
def elsewhere(host: LinkNode, bulk_up: int = ALL, bulk_down: int = ALL) -> Iterator[tuple[Line, Line]]:
    """Another address of the host: the lines to it and to its bulk port."""
    assert host.driver.bulk_address is not None
    port = int(host.driver.bulk_address.rpartition(":")[2])
    with (
        line(host.address, at=(_ELSEWHERE, 0)) as control,
        line(host.driver.bulk_address, bulk_up, bulk_down, at=(_ELSEWHERE, port)) as bulk,
    ):
        yield control, bulk


def test_bulk_goes_over_a_sealed_lane_both_ways_and_comes_once() -> None:
    host, member = pair()
    payloads = [os.urandom(300_000 + i) for i in range(60)]
    with running(host, member):
        member.dials(host)
        eventually(lambda: is_up(host, member))
        exchange(host, member, payloads)
        eventually(lambda: all_came_once(payloads, host, member))
        assert sorted(member.linked.ups) == [0, 1], "nothing was lost, so nobody greets anew"
        assert not host.traced(BulkLaneLostTrace)
        never(lambda: not all_came_once(payloads, host, member))


def test_the_end_of_an_earlier_connection_that_is_told_late_does_not_end_the_lane_that_stands() -> None:
    host, member = pair()
    late = pack(LaneOffer(1, 0, b"of another one..", bytes(32), NO_QUESTION))
    with running(host, member):
        member.dials(host)
        eventually(lambda: is_up(host, member))
        member.run(lambda core, now: member.driver.sealed.take_word(host.key, late))
        exchange(host, member, [b"x"])
        eventually(lambda: all_came_once([b"x"], host, member))
        assert not member.traced(BulkLaneLostTrace)


def test_a_process_without_sealed_lanes_and_one_with_them_talk_over_curve() -> None:
    payloads = [os.urandom(300_000) for _ in range(20)]
    for host, member in (pair(host_bulk=None), pair(member_bulk=None)):
        with running(host, member):
            member.dials(host)
            exchange(host, member, payloads)
            eventually(lambda host=host, member=member: all_came_once(payloads, host, member))
            assert not is_up(host)
            assert host.driver.bulk_address is None or member.driver.bulk_address is None


def test_ends_of_two_runs_agree_on_no_lane() -> None:
    host, member = pair(member_bulk=Bulk(b"another"))
    payloads = [os.urandom(300_000) for _ in range(20)]
    with running(host, member):
        member.dials(host)
        exchange(host, member, payloads)
        eventually(lambda: all_came_once(payloads, host, member))
        never(lambda: is_up(host) or is_up(member), 0.5)


def test_a_closed_bulk_port_costs_one_line_and_bulk_goes_over_curve() -> None:
    host, member = pair()
    payloads = [os.urandom(300_000) for _ in range(20)]
    with running(host, member), line(host.address, at=(_ELSEWHERE, 0)) as control:
        member.dials(host, control.address)
        exchange(host, member, payloads)
        eventually(lambda: all_came_once(payloads, host, member))
        (told,) = eventually(lambda: member.traced(BulkOverControlTrace))
        assert "Connection refused" in told.reason
        never(lambda: len(member.traced(BulkOverControlTrace)) > 1, 1.0)


@pytest.mark.parametrize("dial_s", [1000.0, 0.2])
def test_a_bulk_port_that_never_answers_holds_nothing_up_and_costs_one_line(
    dial_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, member = pair()
    payloads = [os.urandom(300_000) for _ in range(20)]
    monkeypatch.setattr(bulk_door, "DIAL_S", dial_s)
    with running(host, member), line(host.address, at=(_ELSEWHERE, 0)) as control, ExitStack() as stack:
        assert host.driver.bulk_address is not None
        at = _ELSEWHERE, int(host.driver.bulk_address.rpartition(":")[2])
        full = stack.enter_context(socket.create_server(at, backlog=0))
        for _ in range(3):  # the kernel answers nobody after these
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        member.dials(host, control.address)
        exchange(host, member, payloads)
        eventually(lambda: all_came_once(payloads, host, member))
        if dial_s > 100.0:
            assert not member.traced(BulkOverControlTrace), "nobody waited for the end of that attempt"
            return
        (told,) = eventually(lambda: member.traced(BulkOverControlTrace))
        assert "nobody answers there" in told.reason
        never(lambda: len(member.traced(BulkOverControlTrace)) > 1, 0.5)


def test_a_lane_that_breaks_again_and_again_loses_nothing_and_comes_back() -> None:
    host, member = pair()
    payloads = [os.urandom(200_000) for _ in range(300)]
    with running(host, member), elsewhere(host) as (control, bulk):
        member.dials(host, control.address)
        for number in (1, 2):
            eventually(lambda number=number: len(member.traced(BulkLaneUpTrace)) == number)
            exchange(host, member, payloads[150 * number - 150 : 150 * number])
            eventually(lambda number=number: len(host.linked.arrived) > 150 * number - 100)
            bulk.cut()
            eventually(lambda number=number: len(member.traced(BulkLaneLostTrace)) == number)
        eventually(lambda: all_came_once(payloads, host, member))
        eventually(lambda: len(member.traced(BulkLaneUpTrace)) == 3)
        never(lambda: not all_came_once(payloads, host, member))


def test_lanes_that_somebody_cuts_each_time_are_left_alone_for_a_while() -> None:
    host, member = pair()
    payloads = [os.urandom(200_000) for _ in range(60)]
    with running(host, member), elsewhere(host) as (control, bulk):
        member.dials(host, control.address)
        for number in (1, 2, 3):
            eventually(lambda number=number: len(member.traced(BulkLaneUpTrace)) == number)
            exchange(host, member, payloads[20 * number - 20 : 20 * number])
            bulk.cut()
        (told,) = eventually(lambda: member.traced(BulkOverControlTrace))
        assert "three times" in told.reason
        eventually(lambda: all_came_once(payloads, host, member))
        never(lambda: len(member.traced(BulkLaneUpTrace)) > 3, 1.5)


def test_where_no_thread_is_to_be_had_bulk_goes_over_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(threads: LaneThreads, connection: SealedConnection) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(LaneThreads, "serve", fails)
    host, member = pair()
    payloads = [os.urandom(200_000) for _ in range(20)]
    with running(host, member):
        member.dials(host)
        exchange(host, member, payloads)
        eventually(lambda: all_came_once(payloads, host, member))
        (told,) = eventually(lambda: member.traced(BulkOverControlTrace))
        assert "new thread" in told.reason
        assert not is_up(member)


def test_bulk_that_moves_to_a_sealed_lane_is_not_said_again() -> None:
    host, member = pair()
    payloads = [os.urandom(1_000_000) for _ in range(60)]
    with running(host, member), elsewhere(host) as (control, _):
        member.dials(host, control.address)
        eventually(lambda: sorted(member.linked.ups) == [0, 1])
        exchange(host, member, payloads)
        eventually(lambda: is_up(host, member))
        eventually(lambda: all_came_once(payloads, host, member))
        for node in (host, member):
            assert node.driver.counters.total("sent").again_frames == 0


def test_connections_that_stood_by_may_break_while_a_sealed_lane_carries() -> None:
    host, member = pair()
    payloads = [os.urandom(200_000) for _ in range(200)]
    with running(host, member), elsewhere(host) as (control, _):
        member.dials(host, control.address)
        eventually(lambda: is_up(host, member))
        exchange(host, member, payloads[:100])
        control.cut()
        exchange(host, member, payloads[100:])
        eventually(lambda: all_came_once(payloads, host, member))
        assert not member.traced(BulkLaneLostTrace)


def test_a_lane_that_stands_and_carries_nothing_is_given_up_for_curve() -> None:
    host, member = pair()
    payloads = [os.urandom(500_000) for _ in range(60)]
    with running(host, member), elsewhere(host, bulk_up=5_000_000, bulk_down=5_000_000) as (control, _):
        member.dials(host, control.address)
        eventually(lambda: is_up(host, member))
        exchange(host, member, payloads)
        eventually(lambda: all_came_once(payloads, host, member), 40.0)
        lost = member.traced(BulkLaneLostTrace) + host.traced(BulkLaneLostTrace)
        assert any("nothing got on" in each.reason for each in lost)


def test_a_lane_of_which_only_one_end_sees_the_end_is_replaced_and_nothing_is_lost() -> None:
    host, member = pair()
    payloads = [os.urandom(500_000) for _ in range(80)]
    with running(host, member), elsewhere(host) as (control, bulk):
        member.dials(host, control.address)
        eventually(lambda: is_up(host, member))
        exchange(host, member, payloads[:2])
        eventually(lambda: all_came_once(payloads[:2], host, member))
        bulk.freeze()
        member.puts(host, payloads[2:])
        eventually(lambda: member.traced(BulkLaneLostTrace))
        host.puts(member, payloads[2:])
        eventually(lambda: all_came_once(payloads, host, member), 15.0)
        eventually(lambda: len(member.traced(BulkLaneUpTrace)) == 2)


def test_a_peer_that_begins_anew_gets_another_lane() -> None:
    host, member = pair()
    again = LinkNode(3, bind=None, keys=member.keys)
    payloads = [os.urandom(200_000) for _ in range(20)]
    with running(host, again):
        member.driver.start()
        member.dials(host)
        eventually(lambda: is_up(host, member))
        member.driver.stop(0.0)
        again.dials(host)
        eventually(lambda: is_up(again))
        again.puts(host, payloads)
        eventually(lambda: all_came_once(payloads, host))


def test_both_ends_that_dial_agree_on_one_lane() -> None:
    one, other = LinkNode(1), LinkNode(2)
    payloads = [os.urandom(200_000) for _ in range(50)]
    with running(one, other):
        one.dials(other)
        other.dials(one)
        eventually(lambda: is_up(one, other))
        exchange(one, other, payloads)
        eventually(lambda: all_came_once(payloads, one, other))
        never(lambda: len(one.traced(BulkLaneUpTrace)) > 1, 1.0)


@pytest.mark.parametrize("who", [0, 1])
def test_what_was_on_its_way_over_the_lane_of_one_of_two_that_dial_is_said_again(who: int) -> None:
    one, other = LinkNode(1), LinkNode(2)
    payloads = [os.urandom(200_000) for _ in range(50)]
    with running(one, other):
        one.dials(other)
        other.dials(one)
        eventually(lambda: is_up(one, other) and one.linked.ups and other.linked.ups)
        exchange(one, other, payloads)
        ends, peer = (one, other) if who else (other, one)
        ends.run(lambda core, now: ends.driver.sealed.give_up_peer(peer.key))
        eventually(lambda: all_came_once(payloads, one, other))


def test_strangers_at_the_bulk_port_cost_members_nothing() -> None:
    host, member = pair()
    payloads = [os.urandom(200_000) for _ in range(50)]
    with running(host, member):
        member.dials(host)
        eventually(lambda: is_up(host, member))
        assert host.driver.bulk_address is not None
        port = int(host.driver.bulk_address.rpartition(":")[2])
        strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
        for each in strangers[:4]:
            each.sendall(os.urandom(32))
        exchange(host, member, payloads)
        eventually(lambda: all_came_once(payloads, host, member))
        for each in strangers:
            each.settimeout(5.0)
            assert _ended(each)
            each.close()
        assert not host.traced(BulkLaneLostTrace)


def _ended(sock: socket.socket) -> bool:
    """Whether the other end hung up without a word."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True
