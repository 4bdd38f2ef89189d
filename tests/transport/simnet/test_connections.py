"""Simulated connections: who dials again after which end, and what each process then holds."""

from __future__ import annotations

from tests.transport.simnet.kit import A, B, C, Net, Talker, pair
from transport.effects import Close, Connect, Probe, Send
from transport.redial import BARRED_S, SILENCE_S
from transport.simnet.connections import Connections
from transport.simnet.links import Endpoint, Faults
from transport.simnet.routes import Paths
from transport.simnet.timeline import Timeline
from transport.simnet.transit import Transit


class Sockets:
    """Connections without a network around them: processes are told at once."""

    def __init__(self, *keys: bytes) -> None:
        net = Net(1)
        for key in keys:
            net.join(key, Talker())
        self.ends = {key: net.peers[key] for key in keys}
        self.timeline = Timeline()
        self.faults = Faults()
        paths = Paths(None, net.stream("jitter"), net.stream("losses"))
        living = {key: [end] for key, end in self.ends.items()}
        self.connections = Connections(self.timeline, self.faults, paths, living, self.feed, net.stream)
        self.transit = Transit(self.timeline, self.connections, paths, None, lambda peer: None)
        self.said: list[tuple[bytes, str]] = []

    def feed(self, peer: Endpoint, run: object, name: str) -> None:
        assert callable(run)
        run()
        self.said.append((peer.key, name))

    def run(self, seconds: float) -> list[tuple[bytes, str]]:
        """What processes were told meanwhile."""
        self.timeline.run(self.timeline.now_ns + round(seconds * 1e9))
        said, self.said = self.said, []
        return said

    def dial(self, lanes: int = 1) -> None:
        self.connections.dial(self.ends[A], Connect(B, (), lanes))
        self.run(1.0)


UP_AND_DOWN = [(A, "down 0"), (A, "down 1"), (A, "up 0"), (A, "up 1")]


def test_an_acceptor_learns_of_an_end_that_it_did_not_make_and_only_over_what_spoke() -> None:
    net, a, b = pair()
    net.reset(A, B)
    net.run(2.0)
    assert b.ends == [], "nothing had come over it: nobody is known there"
    net.tell(A, Send(B, 0, b"hello"))
    net.run(3.0)
    net.reset(A, B)
    net.run(4.0)
    assert [(peer, lane) for _, peer, lane in b.ends] == [(A, 0)]
    net.tell(A, Send(B, 0, b"again"))
    net.run(5.0)
    net.tell(B, Close(A, "enough"))
    net.run(6.0)
    assert len(b.ends) == 1, "its own act is no news"
    assert a.ends == []


def test_a_dead_process_refuses_dials_and_probes_and_a_frozen_or_parted_one_does_not() -> None:
    net, a, _ = pair()
    net.freeze(B)
    net.tell(A, Probe(B, "anywhere"))
    net.run(2.0)
    net.thaw(B)
    net.cut(A, B)
    net.tell(A, Probe(B, "anywhere"))
    net.run(4.0)
    assert a.refusals == []
    net.mend(A, B)
    net.run(8.0)
    net.crash(B)
    net.run(9.0)
    dialled = len(a.refusals)
    assert dialled > 0
    net.tell(A, Close(B, "enough"), Probe(B, "anywhere"))
    net.run(10.0)
    assert len(a.refusals) == dialled + 1


def test_what_the_network_breaks_is_dialled_again_and_counted() -> None:
    sockets = Sockets(A, B)
    sockets.dial()
    sockets.connections.break_where(lambda c: c.joins(A, B))
    assert sockets.connections.num_breaks == 2
    assert sorted(sockets.run(3.0)) == UP_AND_DOWN


def test_a_connection_that_stood_is_dialled_again_after_the_shortest_wait_however_often_it_breaks() -> None:
    sockets = Sockets(A, B)
    sockets.dial()
    for _ in range(6):
        sockets.connections.break_where(lambda c: True)
        assert sorted(sockets.run(0.1 + 0.3)) == UP_AND_DOWN


def test_who_was_not_connected_yet_is_not_told_of_a_loss() -> None:
    sockets = Sockets(A, B)
    sockets.connections.dial(sockets.ends[A], Connect(B, (), 0))
    assert sockets.run(0.1) == []
    sockets.connections.break_where(lambda c: True)
    assert sockets.run(2.0) == [(A, "up 0")]


def test_who_hangs_up_is_not_told_and_does_not_dial_again() -> None:
    sockets = Sockets(A, B)
    sockets.dial()
    sockets.connections.hang_up(sockets.ends[A], B)
    assert sockets.run(3.0) == []
    assert not sockets.ends[B].connections


def test_who_hung_up_before_anybody_answered_does_not_dial_again() -> None:
    sockets = Sockets(A, B)
    sockets.ends[B].frozen = True
    sockets.dial()
    sockets.connections.hang_up(sockets.ends[A], B)
    sockets.ends[B].frozen = False
    assert sockets.run(9.0) == []


def test_who_is_stopped_dials_when_it_goes_on() -> None:
    sockets = Sockets(A, B)
    a = sockets.ends[A]
    a.frozen = True
    sockets.dial()
    assert sockets.run(9.0) == []
    a.frozen, waiting = False, list(a.backlog)
    for run in waiting:
        run()
    assert sorted(sockets.run(1.0)) == [(A, "up 0"), (A, "up 1")]


def test_a_second_dial_closes_what_the_first_one_opened() -> None:
    sockets = Sockets(A, B)
    sockets.dial()
    sockets.connections.dial(sockets.ends[A], Connect(B, (), 0))
    assert sockets.run(1.0) == [(A, "up 0")]
    assert len(sockets.ends[B].connections) == 1


def test_addresses_are_tried_in_turn_until_somebody_listens_there() -> None:
    sockets = Sockets(A, B)
    sockets.ends[B].address = "there"
    sockets.connections.dial(sockets.ends[A], Connect(B, ("here", "there"), 0))
    assert sockets.run(0.04) == []
    assert sockets.run(1.0) == [(A, "up 0")]


def test_whoever_breaks_the_rules_loses_what_it_opened_and_is_kept_out_for_a_while() -> None:
    sockets = Sockets(A, B, C)
    sockets.dial()
    sockets.connections.dial(sockets.ends[C], Connect(B, (), 0))
    sockets.connections.dial(sockets.ends[B], Connect(A, (), 0))
    sockets.run(1.0)
    sockets.connections.refuse(sockets.ends[B], A)
    assert sorted(sockets.run(BARRED_S - 0.1)) == [(A, "down 0"), (A, "down 1")]
    assert sorted(c.dialer.key for c in sockets.ends[B].connections) == [B, C]
    assert sorted(sockets.run(3.0)) == [(A, "up 0"), (A, "up 1")]


def test_the_dialler_comes_back_when_the_acceptor_hangs_up() -> None:
    sockets = Sockets(A, B)
    sockets.dial()
    sockets.connections.hang_up(sockets.ends[B], A)
    assert sorted(sockets.run(3.0)) == UP_AND_DOWN


def test_the_connections_of_a_process_that_ended_are_gone_on_both_ends() -> None:
    sockets = Sockets(A, B, C)
    sockets.dial()
    sockets.connections.dial(sockets.ends[C], Connect(B, (), 0))
    sockets.run(1.0)
    sockets.connections.end(sockets.ends[A])
    assert [c.dialer.key for c in sockets.ends[B].connections] == [C]
    assert not sockets.ends[A].dialled


def test_nobody_reaches_one_from_whom_it_is_cut() -> None:
    sockets = Sockets(A, B)
    sockets.faults.cuts.add(frozenset((A, B)))
    sockets.dial()
    assert not sockets.ends[A].dialled
    sockets.faults.heal()
    assert not sockets.run(SILENCE_S - 1.0)  # as over TCP, the attempt is still waiting
    assert sorted(sockets.run(SILENCE_S + 1.0)) == [(A, "up 0"), (A, "up 1")]


def test_a_frame_that_is_on_its_way_when_its_connection_breaks_is_lost() -> None:
    sockets = Sockets(A, B)
    sockets.dial()
    a, b = sockets.ends[A], sockets.ends[B]
    for breaks in (False, True):
        for lane in (0, 1):
            frame = Send(B, lane, b"header", b"payload", "exchange", again=breaks)
            sockets.transit.send(a.dialled[B, lane], a, frame)
        if breaks:
            sockets.connections.break_where(lambda c: True)
        sockets.run(3.0)
    assert isinstance(b.core, Talker)
    assert b.core.headers() == [b"header"] * 2
    assert a.sent["exchange"] == b.received["exchange"] == 4 * 13
    assert sockets.transit.sent_again == {A: 26}
