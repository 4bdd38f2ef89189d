"""Routes: what lies between peers takes its time, is shared, and loses packets as TCP feels it."""

from __future__ import annotations

import random

import pytest

from tests.transport.simnet.kit import FRAME, A, B, C, Net, Talker, access
from transport.effects import Phantom, Send
from transport.simnet.links import NS, Endpoint, Pipe
from transport.simnet.routes import Paths, Route, any_lost, mathis_rate

D = b"d" * 32


def test_a_route_adds_its_latency_and_its_line_to_a_frame() -> None:
    line = Pipe(5e5)
    net = Net(1, route=lambda one, two: Route(0.03, 0.0, (line,)))
    b = net.join(B, Talker())
    net.join(A, Talker((B,)))
    net.run(1.0)
    net.tell(A, Send(B, 1, b"h", b"p" * (100_000 - FRAME - 1)))
    net.run(9.0)
    assert b.got[0][0] == pytest.approx(1.0 + 0.1 + 0.2 + 0.05 + 0.03 + 0.05 + 0.1, abs=1e-6)


def test_two_flows_share_a_line_and_a_third_beside_it_does_not_feel_them() -> None:
    line = Pipe(1e5)
    crossing = {(A, C), (B, C)}
    net = Net(1, route=lambda one, two: Route(0.0, 0.0, (line,)) if (one, two) in crossing else None)
    c = net.join(C, Talker())
    c.friends = {A, B, D}
    for key in (A, B, D):
        net.join(key, Talker((C,)))
    net.run(1.0)
    for key in (A, B, D):
        for _ in range(10):
            net.tell(key, Send(C, 1, key[:1], b"p" * (10_000 - FRAME - 1)))
    net.run(20.0)
    last = {header: at for at, _, _, header, _ in c.got}
    assert last[b"d"] < 1.5
    assert last[b"a"] == pytest.approx(last[b"b"], abs=0.21)
    assert max(last.values()) == pytest.approx(1.0 + 0.01 + 200_000 / 1e5 + 0.1 + 0.01, abs=1e-3)


def test_without_loss_nothing_is_drawn_for_it() -> None:
    losses = random.Random(1)
    before = losses.getstate()
    paths = Paths(lambda one, two: Route(0.1, 0.0), random.Random(0), losses)
    one, two = (Endpoint(key, Talker(), access(), lambda now, event: None, "", []) for key in (A, B))
    assert paths.resent_ns(one, two, 10**9) == 0
    assert paths.pipes(one, two) == []
    assert losses.getstate() == before


def test_what_a_stall_swallows_comes_up_to_its_rest_later_and_twice_as_late_if_that_is_lost() -> None:
    one, two = (Endpoint(key, Talker(), access(), lambda now, event: None, "", []) for key in (A, B))
    two.stalled_until = 3 * NS
    spared = Paths(None, random.Random(0), random.Random(1))
    late = sorted(spared.resent_ns(one, two, 100, 1 * NS) / NS for _ in range(200))
    assert 2.0 <= late[0] < 2.1
    assert 3.9 < late[-1] <= 4.0
    assert spared.resent_ns(one, two, 100, 3 * NS) == 0
    lost = Paths(lambda one, two: Route(0.0, 0.0, loss=0.999999), random.Random(0), random.Random(1))
    late = sorted(lost.resent_ns(one, two, 100, 1 * NS) / NS for _ in range(200))
    assert 4.0 <= late[0] < 4.2
    assert 7.8 < late[-1] <= 8.0


def test_with_loss_a_flow_reaches_what_tcp_does() -> None:
    loss, rtt = 0.01, 0.2
    net = Net(1)
    b = net.join(B, Talker(), loss=loss, up=1e9, down=1e9)
    net.join(A, Talker((B,)), up=1e9, down=1e9)
    net.run(1.0)
    rate = mathis_rate(rtt, loss)
    for _ in range(100):
        net.tell(A, Send(B, 1, b"h", Phantom(round(rate))))
    net.run(500.0)
    assert len(b.got) == 100
    assert b.got[-1][0] - 1.0 == pytest.approx(100.0, rel=0.01)


def test_a_frame_of_many_packets_is_hardly_ever_spared() -> None:
    assert any_lost(1460, 0.01) == pytest.approx(0.01)
    assert any_lost(1461, 0.01) == pytest.approx(1 - 0.99**2)
    assert any_lost(10**6, 0.01) > 0.99
