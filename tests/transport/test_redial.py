"""Dialling again: the wait doubles up to a bound, addresses take turns, and both drivers do it alike."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from tests.net.swarm_kit import EchoCore
from tests.transport.simnet.kit import A, B, Net, Talker
from transport.effects import Connect, Trace
from transport.keys import random_pair
from transport.limits import LIMITS
from transport.redial import ATTEMPT_S, BARRED_S, FORGIVEN_S, MAX_BARRED_S, Bars, Redial
from transport.simnet.connections import Connections
from transport.simnet.links import Faults
from transport.simnet.routes import Paths
from transport.simnet.timeline import Timeline
from transport.sockets.core_runner import CoreRunner
from transport.sockets.dialled import DialledLanes
from transport.sockets.lane import Lane
from transport.sockets.libzmq import Poll, new_context
from transport.sockets.names import Names, resolve_name
from transport.sockets.upload_gate import UploadGate
from transport.sockets.wire import Outbox


class Latest(Random):
    """Draws the most that is allowed."""

    def uniform(self, a: float, b: float) -> float:
        return b


def waits(redial: Redial, count: int) -> list[float]:
    """How long each of some attempts waits that fail at once."""
    found = []
    for _ in range(count):
        redial.went_down(100.0)
        found.append(redial.due - 100.0)
    return found


def test_the_wait_doubles_up_to_two_seconds() -> None:
    assert waits(Redial(("a",), Latest()), 7) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_the_wait_is_drawn_between_its_half_and_itself() -> None:
    drawn = [waits(Redial(("a",), Random(seed)), 6) for seed in range(50)]
    for max_wait_s, found in zip((0.1, 0.2, 0.4, 0.8, 1.6, 2.0), zip(*drawn, strict=True), strict=True):
        assert max_wait_s / 2 <= min(found) < 0.6 * max_wait_s
        assert 0.9 * max_wait_s < max(found) <= max_wait_s


def test_who_came_up_begins_with_the_shortest_wait_again_and_at_the_same_address() -> None:
    redial = Redial(("a", "b"), Latest())
    waits(redial, 5)
    assert redial.address == "b"
    redial.came_up()
    assert redial.up
    assert waits(redial, 3) == pytest.approx([0.1, 0.1, 0.2])
    assert redial.address == "b", "two more attempts failed, after one connection that had stood"
    assert not redial.up


def test_an_awaited_host_is_dialled_at_least_twice_a_second_for_half_a_minute() -> None:
    redial, now, times = Redial(("a",), Latest(), eager_from=100.0), 100.0, []
    while now < 140.0:
        redial.went_down(now)
        times.append(redial.due - now)
        now = redial.due
    assert times[:4] == pytest.approx([0.1, 0.2, 0.4, 0.5])
    assert max(times[: round(30 / 0.5)]) <= 0.5 + 1e-9
    assert times[-1] == pytest.approx(2.0)
    redial.came_up()
    assert waits(redial, 1) == pytest.approx([0.1])
    redial.began(200.0)
    for _ in range(6):
        redial.went_down(101.0)
    assert redial.due == pytest.approx(101.5), "a connection that breaks later is as urgent"


def test_a_refusal_counts_where_a_connection_stood_or_once_every_address_refuses() -> None:
    redial = Redial(("a", "b"), Latest())
    assert not redial.refused(), "the first address may be another machine's"
    redial.went_down(0.0)
    assert redial.refused()
    redial.went_down(0.0)
    redial.came_up()
    redial.went_down(0.0)
    assert redial.refused(), "it is tried where it stood"


def test_each_failed_attempt_moves_on_to_the_next_address() -> None:
    redial = Redial(("a", "b", "c"), Latest())
    tried = []
    for _ in range(4):
        tried.append(redial.address)
        redial.went_down(0.0)
    assert tried == ["a", "b", "c", "a"]
    assert Redial((), Latest()).address == ""


def test_an_attempt_is_given_up_after_a_while_and_a_stopped_lane_is_never_due() -> None:
    redial = Redial(("a",), Latest())
    redial.began(3.0)
    assert redial.due == 3.0 + ATTEMPT_S
    redial.stop()
    assert redial.due == math.inf
    assert not redial.up


def test_an_offender_is_barred_for_a_while_and_nobody_else_is() -> None:
    bars = Bars()
    bars.bar(5.0, A)
    assert bars.is_barred(5.0, A)
    assert bars.is_barred(5.0 + BARRED_S - 0.1, A)
    assert not bars.is_barred(5.0 + BARRED_S, A)
    assert not bars.is_barred(5.0, B)
    bars.bar(6.0, B)
    assert bars.is_barred(6.0, A)
    bars.clear()
    assert not bars.is_barred(6.0, A)


def test_who_offends_again_is_barred_twice_as_long_up_to_a_bound_and_is_forgiven_after_an_hour() -> None:
    bars, now = Bars(), 5.0
    assert [bars.bar(now, A) for _ in range(9)] == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    now += MAX_BARRED_S + FORGIVEN_S - 1.0
    assert bars.bar(now, A) == MAX_BARRED_S
    now += MAX_BARRED_S + FORGIVEN_S
    assert bars.bar(now, A) == BARRED_S


def test_some_offences_may_cost_nothing() -> None:
    bars = Bars(num_free=2)
    assert [bars.bar(5.0, A) for _ in range(4)] == [0.0, 0.0, BARRED_S, 2 * BARRED_S]


def test_of_too_many_barred_peers_the_first_are_forgotten() -> None:
    bars = Bars(replace(LIMITS, barred=8))
    keys = [bytes([number]) * 32 for number in range(20)]
    for key in keys:
        bars.bar(5.0, key)
    assert [bars.is_barred(5.0, key) for key in keys] == [False] * 12 + [True] * 8


class Asked(dict[bytes, Any]):
    """Processes by key: there are none, and it is noted when somebody looks for one."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self.timeline, self.times = timeline, list[float]()

    def get(self, key: bytes, default: Any = None) -> Any:
        self.times.append(self.timeline.now_ns / 1e9)
        return default


def simulated_dials(seed: int, until_s: float) -> list[float]:
    """When a simulated lane dials a peer that is not there."""
    net, timeline = Net(1), Timeline()
    net.join(A, Talker())
    nobody = Asked(timeline)
    paths = Paths(None, net.stream("jitter"), net.stream("losses"))

    def draws(name: str) -> Random:
        return Random(seed)

    connections = Connections(timeline, Faults(), paths, nobody, lambda *told: None, draws)
    connections.dial(net.peers[A], Connect(B, ("nowhere",), 0))
    timeline.run(round(until_s * 1e9))
    return nobody.times


def socket_dials(seed: int, until_s: float) -> list[float]:
    """When a socket lane dials an address that cannot be dialled."""
    now = [0.0]
    dials: list[float] = []

    def note(trace: Trace) -> None:
        assert trace.name == "lane_refused"
        dials.append(now[0])

    runner = CoreRunner(EchoCore(), lambda: now[0], note, lambda effect: None)
    context = new_context(1)
    names = Names(lambda: None, resolve_name)
    lanes = DialledLanes(
        runner, context, Poll(), random_pair(), names, LIMITS, Random(seed), UploadGate(None)
    )
    try:
        lanes.connect(Connect(B, ("tcp://no/port",), 0))
        lanes.serve_due(now[0])
        while (due := min(lanes.dues())) <= until_s:
            now[0] = due
            lanes.serve_due(due)
    finally:
        lanes.close_all(0.0)
        context.term()
    return dials


@pytest.mark.parametrize("seed", range(3))
def test_a_socket_lane_and_a_simulated_lane_that_fail_alike_dial_at_the_same_times(seed: int) -> None:
    on_sockets = socket_dials(seed, 12.0)
    assert len(on_sockets) > 8
    assert simulated_dials(seed, 12.0) == pytest.approx(on_sockets, abs=1e-8)


def test_a_new_lane_has_no_connection_and_nothing_that_waits() -> None:
    lane = Lane(B, 1, Redial(("a",), Latest()), Outbox(LIMITS))
    assert (lane.dialer, lane.broken, len(lane.outbox), lane.redial.up) == (None, None, 0, False)


def test_free_times_are_forgotten_sooner_than_those_that_cost() -> None:
    bars = Bars(num_free=1, free_s=300.0)
    assert [bars.bar(now, A) for now in (0.0, 300.0, 599.0)] == [0.0, 0.0, BARRED_S]
    assert bars.bar(599.0 + BARRED_S + 301.0, A) == 2 * BARRED_S
