"""Two drivers over loopback: frames, payloads, reconnects, failures of cores and callbacks, and the end."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from typing import Any

import pytest

from tests.net.swarm_kit import EchoCore, Node, eventually, never, running
from transport.effects import Close, Connect, Deliver, Send, Store, Trace
from transport.errors import DriverStopped, TransportError
from transport.guarded import InputLostTrace
from transport.keys import random_pair, short
from transport.limits import LIMITS, Limits
from transport.sockets.driver import SocketDriver
from transport.sockets.libzmq import check_libzmq
from transport.sockets.traces import (
    CallbackFailedTrace,
    LaneLostTrace,
    LaneRefusedTrace,
    SocketFailedTrace,
    TransportFailedTrace,
)


def pair() -> tuple[Node, Node]:
    host, member = Node(), Node(bind=None)
    host.admit(member.key)
    return host, member


def test_frames_travel_both_ways_and_carry_the_sender() -> None:
    host, member = pair()
    with running(host, member):
        member.dial(host)
        member.do(Send(host.key, 0, b"echo 0"), Send(host.key, 1, b"echo 1", b"payload"))
        eventually(lambda: len(member.core.received) == 2)
        assert sorted(host.core.received, key=lambda frame: frame[1]) == [
            (member.key, 0, b"echo 0", None),
            (member.key, 1, b"echo 1", b"payload"),
        ]
        assert {frame[:3] for frame in member.core.received} == {
            (host.key, 0, b"back 0"),
            (host.key, 1, b"back 1"),
        }


def test_payloads_of_a_mebibyte_arrive_intact_and_in_order_both_ways() -> None:
    host, member = pair()
    payloads = [os.urandom(1 << 20) for _ in range(24)]
    with running(host, member):
        member.dial(host)
        member.do(*(Send(host.key, 1, b"echo", payload, "exchange") for payload in payloads))
        eventually(lambda: len(member.core.received) == len(payloads))
        for node in (host, member):
            digests = [hashlib.sha256(frame[3] or b"").digest() for frame in node.core.received]
            assert digests == [hashlib.sha256(payload).digest() for payload in payloads]
        sent = member.driver.counters.snapshot()[host.key, "sent", "exchange"]
        assert (sent.frames, sent.size_bytes) == (24, 24 * ((1 << 20) + 7))


def test_thousands_of_small_frames_arrive_in_order() -> None:
    host, member = pair()
    headers = [b"echo %d" % number for number in range(3000)]
    with running(host, member):
        member.dial(host)
        member.do(*(Send(host.key, 0, header) for header in headers))
        eventually(lambda: len(member.core.received) == len(headers))
        assert [frame[2] for frame in member.core.received] == [b"back" + each[4:] for each in headers]


def test_control_does_not_wait_behind_bulk() -> None:
    host, member = pair()
    with running(host, member):
        member.dial(host)
        bulk = bytes(1 << 20)
        member.do(*(Send(host.key, 1, b"bulk", bulk) for _ in range(40)), Send(host.key, 0, b"control"))
        eventually(lambda: len(host.core.received) == 41)
        assert [frame[2] for frame in host.core.received].index(b"control") < 30


def test_a_restarted_acceptor_is_found_again_and_reported() -> None:
    host, member = pair()
    with running(member):
        host.driver.start()
        address = host.address
        member.dial(host)
        host.driver.stop(0)
        eventually(lambda: len(member.core.down) == 2)
        again = Node(bind=address, keys=host.keys)
        again.admit(member.key)
        with running(again):
            eventually(lambda: len(member.core.up) == 4)
            member.do(Send(host.key, 0, b"echo"))
            eventually(lambda: member.core.received)


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    host, member = pair()
    with running(host, member):
        member.dial(host, "tcp://127.0.0.1:1", "tcp://no/port", host.address)
        assert {trace.address for trace in member.traced(LaneRefusedTrace)} == {
            "tcp://127.0.0.1:1",
            "tcp://no/port",
        }


def test_a_frame_to_a_lane_that_is_down_is_dropped() -> None:
    host, member = pair()
    with running(host, member):
        host.do(Send(member.key, 0, b"nowhere"))
        member.do(Send(host.key, 0, b"nowhere"))
        member.dial(host)
        member.do(Send(host.key, 0, b"first"))
        eventually(lambda: host.core.received)
        assert [frame[2] for frame in host.core.received] == [b"first"]
        assert member.core.received == []


def test_a_newer_connection_of_the_same_key_replaces_the_older() -> None:
    host, member = pair()
    other = Node(bind=None, keys=member.keys)
    with running(host, member, other):
        member.dial(host)
        member.do(Send(host.key, 0, b"echo old"))
        eventually(lambda: member.core.received)
        other.dial(host)
        other.do(Send(host.key, 0, b"echo new"))
        eventually(lambda: other.core.received)
        eventually(lambda: (host.key, 0) in member.core.down)


def test_close_ends_an_accepted_connection_and_a_last_word_leaves_first() -> None:
    host, member = pair()
    with running(host, member):
        member.dial(host)
        member.do(Send(host.key, 0, b"hello"))
        eventually(lambda: host.core.received)
        host.core.kinds.clear()
        host.do(Send(member.key, 0, b"goodbye"), Close(member.key, "revoked"))
        eventually(lambda: member.core.received)
        eventually(lambda: (host.key, 0) in member.core.down)
        eventually(lambda: member.traced(LaneRefusedTrace))
        assert member.core.received == [(host.key, 0, b"goodbye", None)]


def test_close_ends_dialling() -> None:
    host, member = pair()
    with running(host, member):
        member.dial(host)
        member.close(host.key)
        member.do(Send(host.key, 0, b"late"))
        never(lambda: host.core.received or len(member.core.up) > 2)


def test_a_core_that_redials_from_within_a_loss_has_one_connection_per_lane() -> None:
    class Redialling(EchoCore):
        def disconnected(self, now: float, peer: bytes, lane: int) -> None:
            super().disconnected(now, peer, lane)
            self.out += [Close(peer, "silent"), Connect(peer, (address,), 1)]

    host, member = Node(), Node(bind=None, core=Redialling())
    host.admit(member.key)
    with running(member):
        host.driver.start()
        address = host.address
        member.dial(host)
        host.driver.stop(0)
        eventually(lambda: member.core.down)
        again = Node(bind=address, keys=host.keys)
        again.admit(member.key)
        with running(again):
            eventually(lambda: len(member.core.up) >= 4)
            never(lambda: len(member.core.up) > 4, 0.3)
            member.do(Send(host.key, 0, b"echo"), Send(host.key, 1, b"echo"))
            eventually(lambda: {lane for _, lane, _, _ in member.core.received} == {0, 1})
        # A connection that was forgotten and stands would keep the driver from stopping.


class MarkTrace(Trace):
    """A fact without fields."""


def test_effects_are_carried_out_in_order_and_calls_return_results() -> None:
    order: list[object] = []
    core = EchoCore()
    driver = SocketDriver(
        core, random_pair(), None, order.append, lambda trace: order.append(trace.name), order.append
    )
    driver.start()
    core.out = [Deliver("a"), Store(b"b"), MarkTrace(), Deliver("d")]
    assert driver.call(lambda core, now: now > 0).result(20) is True
    assert order == ["a", b"b", "mark", "d"]
    with pytest.raises(ZeroDivisionError):
        driver.call(lambda core, now: 1 / 0).result(20)
    assert driver.call(lambda core, now: 7).result(20) == 7
    driver.stop()
    with pytest.raises(DriverStopped):
        driver.call(lambda core, now: 7)


def test_a_deadline_is_kept() -> None:
    node = Node()
    with running(node):
        started = time.monotonic()
        for number in range(1, 11):
            due = time.monotonic() + 0.05
            node.driver.call(lambda core, now, due=due: setattr(node.core, "due", due)).result(20)
            eventually(lambda number=number: node.core.ticks == number)
            assert time.monotonic() >= due
        # The sockets are looked at every second anyway: that would have taken ten.
        assert time.monotonic() - started < 5.0


def test_a_core_that_fails_at_one_frame_loses_it_and_that_peer_and_goes_on() -> None:
    host, member = pair()
    other = Node(bind=None)
    host.admit(other.key)
    host.core.fails_at = b"poison"
    with running(host, member, other):
        member.dial(host)
        other.dial(host)
        other.do(Send(host.key, 0, b"echo 0"))
        eventually(lambda: other.core.received)
        member.do(Send(host.key, 0, b"poison"))
        eventually(lambda: (host.key, 0) in member.core.down)
        (lost,) = host.traced(InputLostTrace)
        assert (lost.peer, lost.error) == (member.key, "KeyError: 'gone'")
        assert host.stored == [b"half"]
        eventually(lambda: member.core.up.count((host.key, 0)) == 2)
        member.do(Send(host.key, 0, b"echo 1"))
        other.do(Send(host.key, 0, b"echo 2"))
        eventually(lambda: member.core.received and len(other.core.received) == 2)
        assert other.core.down == []


def test_a_function_for_events_that_fails_loses_that_call_only(caplog: pytest.LogCaptureFixture) -> None:
    host, member, events = Node(), Node(bind=None), list[object]()

    def on_event(event: object) -> None:
        if event == "bad":
            raise ValueError("cannot take it")
        events.append(event)

    host.admit(member.key)
    host.driver = SocketDriver(
        host.core, host.keys, "tcp://127.0.0.1:0", on_event, host.traces.append, host.stored.append
    )
    with running(host, member):
        member.dial(host)
        host.do(Deliver("good"), Deliver("bad"), Store(b"x"), Deliver("good too"))
        assert (events, host.stored) == (["good", "good too"], [b"x"])
        member.do(Send(host.key, 0, b"echo"))
        eventually(lambda: member.core.received)
        (failed,) = host.traced(CallbackFailedTrace)
        assert (failed.error, failed.number) == ("ValueError: cannot take it", 1)
        assert "in on_event" in failed.traceback
        assert "in on_event" in caplog.text
        for _ in range(50):
            host.do(Deliver("bad"))
        assert len(caplog.records) == LIMITS.lines_per_peer
        assert len(host.traced(CallbackFailedTrace)) == 51


def test_a_function_for_traces_that_fails_loses_that_call_only(caplog: pytest.LogCaptureFixture) -> None:
    member = Node(bind=None)

    def on_trace(trace: Trace) -> None:
        raise ValueError("cannot show it")

    member.driver = SocketDriver(
        member.core, member.keys, None, member.events.append, on_trace, member.stored.append
    )
    with running(member):
        member.do(MarkTrace(), Deliver("after it"))
        assert member.events == ["after it"]
        assert "in on_trace" in caplog.text


def test_a_frame_that_the_socket_cannot_take_costs_its_peer_the_connection_and_nobody_else() -> None:
    host, member = pair()
    other = Node(bind=None)
    host.admit(other.key)
    with running(host, member, other):
        member.dial(host)
        other.dial(host)
        member.do(Send(host.key, 0, b"echo 0"))
        eventually(lambda: member.core.received)
        unfit: Any = object()
        host.do(Send(member.key, 0, b"header", unfit))
        eventually(lambda: (host.key, 0) in member.core.down)
        assert [each.peer for each in host.traced(SocketFailedTrace)] == [member.key]
        eventually(lambda: member.core.up.count((host.key, 0)) == 2)
        other.do(Send(host.key, 0, b"echo 1"))
        eventually(lambda: other.core.received)
        assert other.core.down == []


def test_a_broken_state_of_the_core_stops_the_driver(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(EchoCore):
        def tick(self, now: float) -> None:
            raise AssertionError("two heads")

    node = Node(bind=None, core=Broken())
    node.core.due = 0.0
    node.driver.start()
    eventually(lambda: not node.driver.running)
    assert "in tick" in caplog.text
    assert node.traced(TransportFailedTrace) == [TransportFailedTrace("AssertionError: two heads")]
    assert node.traced(InputLostTrace) == []
    node.driver.stop()


def test_stop_is_prompt_frees_the_port_and_sends_what_waits() -> None:
    host, member = pair()
    with running(host):
        member.driver.start()
        member.dial(host)
        bulk = [Send(host.key, 1, b"b", bytes(1 << 20))] * 30
        member.driver.call(lambda core, now: member.core.out.extend(bulk))
        member.driver.stop(2.0)
        eventually(lambda: len(host.core.received) == 30)
    started = time.monotonic()
    node = Node()
    node.driver.start()
    node.driver.stop(2.0)
    assert time.monotonic() - started < 2.0, "nothing waits to be sent: it need not linger"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", int(node.address.rpartition(":")[2])))


def test_stop_is_prompt_when_the_other_side_takes_nothing() -> None:
    host, member = pair()
    with running(host):
        member.driver.start()
        member.dial(host)
        host.block(3.0)
        member.do(*(Send(host.key, 1, b"b", bytes(1 << 20)) for _ in range(40)))
        started = time.monotonic()
        member.driver.stop(0.3)
        assert time.monotonic() - started < 2.0, "it lingered for as long as it ever may"


def test_drivers_leave_no_descriptors() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    def life() -> None:
        host, member = pair()
        with running(host, member):
            member.dial(host)

    life()
    before = count()
    for _ in range(5):
        life()
    assert count() <= before


def test_a_taken_address_is_one_clear_line() -> None:
    host = Node()
    with running(host):
        second = Node(bind=host.address)
        with pytest.raises(TransportError, match=r"cannot listen on .*already in use; choose another"):
            second.driver.start()


def test_an_unfit_libzmq_is_one_clear_line() -> None:
    with pytest.raises(TransportError, match=r"4\.3\.4 is too old, 4\.3\.5 is needed"):
        check_libzmq((4, 3, 4), True)
    with pytest.raises(TransportError, match="without CURVE"):
        check_libzmq((4, 3, 5), False)


def test_a_full_outbox_resets_the_connection_instead_of_losing_frames() -> None:
    small = Limits(control_queue=4, window_bytes=1 << 20, spare_bytes=0)
    host, member = Node(limits=small), Node(bind=None, limits=small)
    host.admit(member.key)
    with running(host, member):
        member.dial(host)
        host.block(0.5)
        member.do(*(Send(host.key, 1, b"b", bytes(1 << 20)) for _ in range(60)))
        eventually(lambda: (host.key, 1) in member.core.down)
        lost = [trace for trace in member.traced(LaneLostTrace) if trace.lane == 1]
        assert lost[0].reason == "too much waits to be sent"
        eventually(lambda: member.core.up.count((host.key, 1)) == 2)


def test_secrets_are_in_no_repr_trace_or_log(caplog: pytest.LogCaptureFixture) -> None:
    host, member = pair()
    with caplog.at_level(logging.DEBUG), running(host, member):
        member.dial(host)
        member.do(Connect(random_pair().public, (host.address,), 0))
        eventually(lambda: member.traced(LaneRefusedTrace))
    shown = repr((host.driver, host.driver.__dict__, member.driver.__dict__, host.traces, member.traces))
    shown += caplog.text
    for node in (host, member):
        assert short(node.key) in shown or node.key.hex() in shown or repr(node.key) in shown
        assert repr(node.keys.secret)[2:-1] not in shown
        assert node.keys.secret.hex() not in shown
