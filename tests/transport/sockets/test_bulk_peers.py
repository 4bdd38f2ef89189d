"""What is remembered of peers' lanes: bounded, and a lane is stuck only if control is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.transport.sockets.sealed_kit import close_sockets, connection_of, message, tcp_pair
from transport.sealed.trouble import STUCK_S, LaneWatch
from transport.sockets.bulk_peers import BulkPeers, StandingLane


@pytest.fixture(autouse=True)
def _no_socket_is_left() -> Iterator[None]:
    yield
    close_sockets()


def lane() -> tuple[StandingLane, socket.socket]:
    """A lane over TCP, and its far end."""
    near, far = tcp_pair()
    near.setblocking(False)
    return StandingLane(connection_of(near, is_ours=True), LaneWatch(0.0)), far


def fill(standing: StandingLane) -> None:
    """Send as much as the kernel takes."""
    while True:
        standing.connection.put(message(b"a", bytes(1 << 20)))
        if not standing.connection.send_waiting(socket.MSG_DONTWAIT):
            return


def test_a_lane_over_which_nothing_gets_on_is_stuck_if_control_got_on() -> None:
    standing, _ = lane()
    fill(standing)
    assert not standing.is_stuck(1.0, control_heard_at=1.0)
    assert not standing.is_stuck(1.0 + STUCK_S + 0.1, control_heard_at=1.5)
    assert standing.is_stuck(1.0 + STUCK_S + 0.1, control_heard_at=3.0)


def test_a_lane_that_gets_on_or_has_nothing_to_carry_is_not_stuck() -> None:
    standing, far = lane()
    fill(standing)
    assert not standing.is_stuck(1.0, control_heard_at=1.0)
    far.settimeout(5.0)
    num_bytes = 0
    while num_bytes < 2 << 20:
        num_bytes += len(far.recv(1 << 20))
    assert not standing.is_stuck(10.0, control_heard_at=10.0)
    idle, _ = lane()
    assert not idle.is_stuck(10.0, control_heard_at=10.0)
    assert not idle.is_stuck(20.0, control_heard_at=20.0)


def test_a_lane_whose_bulk_waits_here_is_not_stuck() -> None:
    standing, _ = lane()
    standing.connection.put(message(b"a", b"held by the gate of uploads"))
    for now in (1.0, 10.0, 20.0):
        assert not standing.is_stuck(now, control_heard_at=now)


def test_what_is_remembered_of_peers_without_lanes_is_bounded() -> None:
    peers = BulkPeers(most=2, most_lanes=1)
    first = peers.of(b"1")
    first.lanes[1] = lane()[0]
    peers.of(b"2")
    peers.of(b"3")
    assert peers.find(b"2") is None
    assert peers.of(b"1") is first
    assert [each.peer for each, _ in peers.lanes()] == [b"1"]


def test_how_lanes_fared_outlives_a_peer_that_is_closed() -> None:
    found = BulkPeers(8, 1).of(b"1")
    found.choice.refused(100.0)
    found.sessions = ((1, 1), (2, 1))
    found.begin_anew()
    assert found.sessions is None
    assert not found.choice.may_ask(101.0)
