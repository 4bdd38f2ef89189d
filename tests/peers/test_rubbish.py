"""Who is let speak at a node, and what becomes of whoever sends rubbish or at whose input it fails."""

from __future__ import annotations

import pytest

from peers.protocol.events import PeerLeft
from peers.protocol.evidence import ShownMean
from peers.protocol.messages import Wanted
from peers.protocol.traces import BadFrameTrace, PeerBarredTrace, RemovedTrace
from tests.peers.node_kit import (
    DIGEST,
    HIGH,
    HOST,
    INVITE,
    LOW,
    Swarm,
    fetched,
    host_node,
    member_node,
    training,
)
from transport.collectives.fetch import Piece
from transport.effects import STREAM_LANE, Close, Connect, Deliver
from transport.frames import pack, pack_items, to_items
from transport.link.messages import StreamAck


def test_when_an_input_of_a_member_fails_the_member_beside_the_host_hears_of_it_at_once() -> None:
    host = host_node()
    swarm = Swarm(host, LOW)
    host.train(swarm.now, training(HOST))
    swarm.run()
    host.expel(swarm.now, LOW, "an input of it failed here")
    told = [effect.event for effect in host.drain() if isinstance(effect, Deliver)]
    assert [event.key for event in told if isinstance(event, PeerLeft)] == [LOW]


def test_a_donor_that_sends_rubbish_is_asked_no_more() -> None:
    swarm = Swarm(host_node(min_peers=2), LOW, HIGH)
    swarm.deaf.add(LOW)
    fetched(swarm)
    member = swarm.nodes[HIGH].member
    assert member is not None
    assert member.waits_for() == {HOST, LOW}
    swarm.nodes[HIGH].receive(swarm.now, LOW, 0, b"rubbish", None)
    assert member.waits_for() == {HOST}


def test_a_member_that_sends_the_coordinator_rubbish_is_out_until_it_enters_again() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    host = swarm.nodes[HOST]
    host.receive(0.0, LOW, 0, b"rubbish", None)
    swarm.run()
    assert [each.peer for each in swarm.traces if isinstance(each, RemovedTrace)] == [LOW]
    assert LOW not in swarm.nodes[HIGH].links.by_peer


def test_a_stranger_is_closed_and_leaves_no_trace() -> None:
    swarm = Swarm(host_node(), LOW)
    for key in (HOST, LOW):
        node = swarm.nodes[key]
        before = node.digest()
        node.receive(0.0, b"x" * 32, 0, pack(Wanted(0)), None)
        assert node.drain() == [Close(b"x" * 32, "not a member")]
        assert node.digest() == before
        assert node.admits(b"x" * 32) is None


def test_members_are_admitted_at_every_node_and_invites_at_the_door() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    assert [swarm.nodes[HOST].admits(key) for key in (LOW, INVITE)] == ["member", "invite"]
    assert [swarm.nodes[LOW].admits(key) for key in (HOST, HIGH, INVITE)] == ["member", "member", None]


def test_rubbish_closes_its_sender_and_whoever_dialled_it_dials_again() -> None:
    swarm = Swarm(host_node(), LOW)
    swarm.nodes[LOW].receive(0.0, HOST, 0, b"rubbish", None)
    effects = swarm.nodes[LOW].drain()
    assert [each.peer for each in effects if isinstance(each, BadFrameTrace)] == [HOST]
    assert [each.peer for each in effects if isinstance(each, (Close, Connect))] == [HOST, HOST]
    swarm.nodes[HOST].receive(0.0, LOW, 0, b"rubbish", None)
    effects = swarm.nodes[HOST].drain()
    assert not any(isinstance(each, Connect) for each in effects)
    assert swarm.nodes[HOST].links.by_peer == {}


def test_a_peer_of_which_an_input_failed_begins_anew_and_enters_again() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    host = swarm.nodes[HOST]
    assert host.coordinator is not None
    entries = host.coordinator.roster.entries
    host.expel(swarm.now, LOW, "an input of it failed here")
    assert LOW not in host.links.by_peer
    assert [entries[key].entered for key in (LOW, HIGH)] == [False, True]
    swarm.nodes[LOW].expel(swarm.now, HOST, "an input of it failed here")
    swarm.run()
    assert [entries[key].entered for key in (LOW, HIGH)] == [True, True]


def test_who_sends_rubbish_to_the_host_a_third_time_stays_away_for_a_while_and_is_told_of_once() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    host = swarm.nodes[HOST]
    for number in range(2):
        host.receive(float(number), LOW, 0, b"rubbish", None)
        assert host.admits(LOW) == "member"  # it may be a bug: it is back at once
    host.receive(2.0, LOW, 0, b"rubbish", None)
    effects = host.drain()
    barred = [each for each in effects if isinstance(each, PeerBarredTrace)]
    assert [(each.peer, each.barred_s) for each in barred] == [(LOW, 10.0)]
    assert (host.admits(LOW), host.admits(HIGH)) == (None, "member")
    host.receive(3.0, LOW, 0, b"rubbish", None)
    assert host.drain() == []
    assert LOW not in host.links.by_peer
    host.tick(12.0)
    assert host.admits(LOW) == "member"


def test_a_member_bars_nobody() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    for _ in range(5):
        swarm.nodes[LOW].receive(0.0, HIGH, 0, b"rubbish", None)
        swarm.nodes[LOW].receive(0.0, HOST, 0, b"rubbish", None)
        assert [swarm.nodes[LOW].admits(key) for key in (HIGH, HOST)] == ["member", "member"]


def test_whoever_has_no_link_here_is_not_expelled() -> None:
    node = host_node()
    node.start(0.0)
    node.drain()
    node.expel(0.0, b"x" * 32, "an input of it failed here")
    assert node.drain() == []


def test_a_payload_to_a_node_that_does_not_train_is_rubbish() -> None:
    swarm = Swarm(host_node(), LOW)
    swarm.nodes[LOW].send_bulk(0.0, HOST, Piece(DIGEST, 0, False), b"x", "state")
    swarm.run()
    (trace,) = [each for each in swarm.traces if isinstance(each, BadFrameTrace)]
    assert "does not train" in trace.reason


@pytest.mark.parametrize("is_ack", [True, False])
def test_where_nothing_is_streamed_a_frame_of_a_stream_is_rubbish(is_ack: bool) -> None:
    swarm = Swarm(host_node(), LOW)
    swarm.run()
    host = swarm.nodes[HOST]
    link = host.links.by_peer[LOW].streams
    ack = StreamAck(*link.peer_session, *link.session, 0, 0, 1 << 20, 1)
    items = [to_items(ack)] if is_ack else [to_items(ack), to_items(Piece(DIGEST, 0, False))]
    host.receive(swarm.now, LOW, STREAM_LANE, pack_items(items), None if is_ack else b"p")
    assert [type(each) for each in host.drain() if isinstance(each, BadFrameTrace | Close)] == [
        BadFrameTrace,
        Close,
    ]
    assert host.stream_room(LOW) == -1


@pytest.mark.parametrize("message", [ShownMean(1), Piece(DIGEST, 0, False)])
def test_what_no_stream_carries_is_rubbish_there_and_gives_no_credit_of_other_bulk(message: object) -> None:
    """Bytes that counted as consumed where they did not come would let a peer send ever more."""
    host, low = host_node(), member_node(LOW)
    host.links.takes_streams = low.links.takes_streams = True
    swarm = Swarm(host)
    assert host.coordinator is not None
    host.coordinator.certify(LOW, "low")
    swarm.nodes[LOW], swarm.events[LOW] = low, []
    low.start(0.0)
    swarm.run()
    window = host.links.by_peer[LOW].streams.window
    low.send_stream(0.0, HOST, message, b"x" * 100)
    swarm.run()
    (trace,) = [each for each in swarm.traces if isinstance(each, BadFrameTrace)]
    assert "does not train" in trace.reason
    assert window.consumed == 0
