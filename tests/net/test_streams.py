"""The stream of a link over sockets: a lane of its own beside other bulk, sealed or over CURVE."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable

import pytest

from tests.net.link_core import OF_THE_RUN, LinkNode
from tests.net.stalling import line
from tests.net.swarm_kit import eventually, running
from transport.effects import STREAM_LANE
from transport.sockets.sealed_lanes import Bulk
from transport.sockets.traces import BulkLaneLostTrace, BulkLaneUpTrace
from transport.sockets.upload_gate import UploadGate

PAYLOADS = [os.urandom(200_000 + i) for i in range(30)]


def pair(bulk: Bulk | None = OF_THE_RUN) -> tuple[LinkNode, LinkNode]:
    return LinkNode(1, bulk=bulk, streams=True), LinkNode(2, bind=None, bulk=bulk, streams=True)


def came_once(came: list[tuple[int, bytes]]) -> bool:
    return sorted(came) == [(i, hashlib.sha256(each).digest()) for i, each in enumerate(PAYLOADS)]


def lanes_up(node: LinkNode) -> set[int]:
    return {trace.lane for trace in node.traced(BulkLaneUpTrace)}


@pytest.mark.parametrize("bulk", [OF_THE_RUN, None], ids=["sealed", "curve"])
def test_a_stream_and_other_bulk_come_once_each_over_lanes_of_their_own(bulk: Bulk | None) -> None:
    host, member = pair(bulk)
    with running(host, member):
        member.dials(host)
        if bulk is not None:
            eventually(lambda: lanes_up(host) == lanes_up(member) == {1, STREAM_LANE})
        for one, other in ((host, member), (member, host)):
            one.puts(other, PAYLOADS)
            one.streams(other, PAYLOADS)
        for node in (host, member):
            eventually(lambda node=node: came_once(node.linked.streamed) and came_once(node.linked.arrived))
        sent = member.driver.counters.snapshot()
        assert sent[host.key, "sent", "stream"].frames == len(PAYLOADS)
        assert sorted(member.linked.ups) == [0, 1, STREAM_LANE], "nothing was lost, so nobody greets anew"


def test_a_sealed_stream_that_breaks_goes_on_over_curve_and_comes_back() -> None:
    host, member = pair()
    at = "127.0.0.3"
    with running(host, member):
        assert host.driver.bulk_address is not None
        port = int(host.driver.bulk_address.rpartition(":")[2])
        with line(host.address, at=(at, 0)) as control, line(host.driver.bulk_address, at=(at, port)) as bulk:
            member.dials(host, control.address)
            eventually(lambda: lanes_up(member) == {1, STREAM_LANE})
            member.streams(host, PAYLOADS)
            ups = [each.lane for each in member.traced(BulkLaneUpTrace)]
            bulk.cut()
            eventually(lambda: {each.lane for each in member.traced(BulkLaneLostTrace)} >= {STREAM_LANE})
            eventually(lambda: came_once(host.linked.streamed))
            eventually(lambda: len(ups) < len(member.traced(BulkLaneUpTrace)))


class CountingGate(UploadGate):
    """It counts what bulk that has time may hand over."""

    num_bytes = 0

    def wait_turn(self, flow: Hashable, size_bytes: int, is_over: Callable[[], bool]) -> int:
        size = super().wait_turn(flow, size_bytes, is_over)
        self.num_bytes += size
        return size


def test_while_a_stream_is_under_way_the_kernel_gets_little_of_other_bulk_that_does_not_get_on() -> None:
    gate, most = CountingGate(None), 256 * 1024
    host = LinkNode(1, streams=True)
    member = LinkNode(2, bind=None, bulk=Bulk(b"run", gate=gate), streams=True)
    small = [each[:1000] for each in PAYLOADS]
    with running(host, member):
        assert host.driver.bulk_address is not None
        at = "127.0.0.3", int(host.driver.bulk_address.rpartition(":")[2])
        with line(host.address, at=(at[0], 0)) as control, line(host.driver.bulk_address, most, at=at):
            member.dials(host, control.address)
            eventually(lambda: lanes_up(host) == lanes_up(member) == {1, STREAM_LANE})
            member.streams(host, small[:1])
            member.puts(host, PAYLOADS)
            eventually(lambda: gate.num_bytes > most)
            member.streams(host, small)
            eventually(lambda: len(host.linked.streamed) == 1 + len(small))
            # The line took what it carries and what its kernel holds; the rest is what may be under way.
            assert gate.num_bytes < most + 1.5 * (1 << 20) < sum(map(len, PAYLOADS)) / 2
            assert not member.traced(BulkLaneLostTrace)


class OnceClosedGate(UploadGate):
    """Whoever asks whether bulk may leave is told to wait, and next time that it need not have."""

    num_asked = 0

    def patient_wait_s(self, size_bytes: int) -> float:
        self.num_asked += 1
        return 0.01 * (self.num_asked % 2)


def test_what_the_gate_held_leaves_also_where_it_is_open_by_the_time_it_is_asked_how_long() -> None:
    host = LinkNode(1, bulk=None)
    member = LinkNode(2, bind=None, bulk=Bulk(b"run", gate=OnceClosedGate(None)))
    with running(host, member):
        member.dials(host)
        member.puts(host, PAYLOADS)
        eventually(lambda: came_once(host.linked.arrived))
