"""Lanes come and go while a link stands, and whatever they carry comes once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest

from tests.net.link_core import LinkNode
from tests.net.swarm_kit import eventually, never, running
from transport.limits import LIMITS
from transport.sealed.growth import BusyRate, LaneGrowth
from transport.sockets.traces import BulkLaneUpTrace

LANES = replace(LIMITS, lanes=3)


def test_lanes_are_added_and_given_up_while_bulk_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [1]

    def measured(growth: LaneGrowth, now: float, rate_bps: float) -> bool:
        has_changed, growth.lanes = growth.lanes != wanted[0], wanted[0]
        return has_changed

    monkeypatch.setattr(BusyRate, "looked", lambda *_, **__: 1.0)
    monkeypatch.setattr(LaneGrowth, "measured", measured)
    host, member = LinkNode(1, limits=LANES), LinkNode(2, bind=None, limits=LANES)
    payloads = [os.urandom(150_000 + number) for number in range(60)]
    digests = {hashlib.sha256(payload).digest() for payload in payloads}

    def have_come(number: int) -> bool:
        return all(
            len(node.linked.arrived) == number and {digest for _, digest in node.linked.arrived} <= digests
            for node in (host, member)
        )

    def carried() -> list[int]:
        return [lane for lane in range(1, 5) if member.driver.sealed.carries(host.key, lane)]

    with running(host, member):
        member.dials(host)
        for round_index, num_lanes in enumerate((1, 3, 2, 1, 3)):
            wanted[0] = num_lanes
            for node, other in ((host, member), (member, host)):
                node.puts(other, payloads[:30])
            eventually(lambda num_lanes=num_lanes: carried() == list(range(1, 1 + num_lanes)))
            for node, other in ((host, member), (member, host)):
                node.puts(other, payloads[30:])
            eventually(lambda round_index=round_index: have_come(60 * (round_index + 1)))
        assert {trace.lane for trace in host.traced(BulkLaneUpTrace)} == {1, 2, 3}
        never(lambda: not have_come(300))


def test_a_pair_has_one_lane_as_long_as_bulk_is_not_busy() -> None:
    host, member = LinkNode(1, limits=LANES), LinkNode(2, bind=None, limits=LANES)
    with running(host, member):
        member.dials(host)
        eventually(lambda: host.traced(BulkLaneUpTrace))
        never(lambda: len(host.traced(BulkLaneUpTrace)) > 1, 0.5)
