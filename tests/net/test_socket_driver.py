"""Two drivers over loopback: frames, payloads, reconnects, refusals, knocks, and the end."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from typing import Any

import pytest

from tests.net.swarm_kit import EchoCore, Node, eventually, never, running
from transport.effects import Close, Connect, Deliver, KeepFailedTrace, KeepResult, Send, Store, Trace
from transport.errors import DriverStopped, KnockRefused, KnockTimeout, TransportError
from transport.guarded import InputLostTrace
from transport.in_order import StoreFailedTrace, StoreRecoveredTrace
from transport.keys import random_pair, short
from transport.limits import LIMITS, Limits
from transport.sockets.driver import SocketDriver
from transport.sockets.libzmq import check_libzmq, knock
from transport.sockets.traces import (
    CallbackFailedTrace,
    LaneLostTrace,
    LaneRefusedTrace,
    PeerClosedTrace,
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
        assert (sent.frames, sent.size_bytes) == (24, 24 * ((1 << 20) + 5))


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


class Disk:
    """A journal that is on disk, or full."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.room = False

    def store(self, entry: bytes) -> None:
        if not self.room:
            raise OSError(28, "No space left on device")
        self.entries.append(entry)


def test_while_the_journal_cannot_be_written_nothing_is_said_or_taken_and_then_it_goes_on_in_order() -> None:
    host, member, disk = Node(), Node(bind=None), Disk()
    invite = random_pair()
    host.admit(member.key)
    host.admit(invite.public, "invite")
    host.driver = SocketDriver(
        host.core,
        host.keys,
        "tcp://127.0.0.1:0",
        host.events.append,
        host.traces.append,
        disk.store,
        say_disk_full=lambda now: host.core.out.append(Send(member.key, 0, b"my disk is full")),
    )
    with running(host, member):
        member.dial(host)
        member.do(Send(host.key, 0, b"echo 0"))
        eventually(lambda: member.core.received)
        host.do(Store(b"decided"), Send(member.key, 0, b"said"), Deliver("told"))
        assert host.driver.call(lambda core, now: 7).result(20) == 7, "the program's calls go on"
        member.do(Send(host.key, 0, b"echo 1"))
        with pytest.raises(KnockTimeout):
            knock(host.address, host.key, invite, b"me", 0.5)
        assert (len(host.core.received), host.core.knocks, host.events) == (1, [], [])
        eventually(lambda: len(member.core.received) > 1)
        assert {frame[2] for frame in member.core.received[1:]} == {b"my disk is full"}
        assert host.traced(StoreFailedTrace)[0].error == host.driver.unwritten
        disk.room = True
        eventually(lambda: member.core.received[-1][2] == b"back 1")
        told = [frame[2] for frame in member.core.received if frame[2] != b"my disk is full"]
        assert told == [b"back 0", b"said", b"back 1"]
        assert (disk.entries, host.events) == ([b"decided"], ["told"])
        assert host.traced(StoreRecoveredTrace)
        assert host.driver.unwritten is None


def test_a_result_is_kept_before_what_follows_and_a_full_disk_is_told_and_holds_up_nothing() -> None:
    member, kept = Node(bind=None), []

    def keep(effect: KeepResult) -> None:
        if effect.serial == 2:
            raise OSError(28, "No space left on device")
        kept.append(("kept", effect.serial, list(member.events)))

    member.driver = SocketDriver(
        member.core, member.keys, None, member.events.append, member.traces.append, Disk().store, keep=keep
    )
    with running(member):
        results = [KeepResult(serial, bytes([serial]) * 32, [b"d" * 32], [b"chunk"]) for serial in (1, 2, 3)]
        for result in results:
            member.do(result, Deliver(f"said of {result.serial}"))
        eventually(lambda: len(member.events) == 3)
    assert kept == [("kept", 1, []), ("kept", 3, ["said of 1", "said of 2"])]
    (failed,) = member.traced(KeepFailedTrace)
    assert (failed.serial, "No space left" in failed.error) == (2, True)


def test_an_answer_to_a_knock_waits_for_what_was_decided_for_it() -> None:
    class Certifying(EchoCore):
        def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
            self.out.append(Store(header))
            return super().knock(now, invite, header)

    host, disk, invite = Node(core=Certifying()), Disk(), random_pair()
    host.admit(invite.public, "invite")
    host.driver = SocketDriver(
        host.core, host.keys, "tcp://127.0.0.1:0", host.events.append, host.traces.append, disk.store
    )
    with running(host):
        with pytest.raises(KnockTimeout):
            knock(host.address, host.key, invite, b"me", 0.5)
        assert host.core.knocks == [(invite.public, b"me")]
        disk.room = True
        eventually(lambda: disk.entries == [b"me"])
        assert knock(host.address, host.key, invite, b"again", 5)[0] == b"welcome again"


def test_a_driver_stops_at_once_though_its_journal_cannot_be_written() -> None:
    member, disk = Node(bind=None), Disk()
    member.driver = SocketDriver(
        member.core, member.keys, None, member.events.append, member.traces.append, disk.store
    )
    with running(member):
        member.do(Store(b"decided"), Deliver("told"))
    assert not member.driver.running
    assert (member.events, disk.entries) == ([], [])


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


def test_a_question_at_which_the_core_fails_is_hung_up_and_others_are_answered() -> None:
    host, invite = Node(), random_pair()
    host.admit(invite.public, "invite")
    host.core.fails_at = b"poison"
    with running(host):
        with pytest.raises(KnockTimeout, match="the connection broke"):
            knock(host.address, host.key, invite, b"poison", 1.0)
        assert knock(host.address, host.key, invite, b"hello", 5.0) == (b"welcome hello", b"settings")
        assert {each.peer for each in host.traced(InputLostTrace)} == {invite.public}


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
    small = Limits(control_queue=4, window_bytes=1 << 20)
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


def test_an_invite_is_answered_and_reaches_nothing_else() -> None:
    host, invite = Node(), random_pair()
    host.admit(invite.public, "invite")
    with running(host):
        assert knock(host.address, host.key, invite, b"me", 2) == (b"welcome me", b"settings")
        assert host.core.knocks == [(invite.public, b"me")]
        assert host.core.received == []


def test_an_unknown_invite_is_refused_at_once_with_what_to_do() -> None:
    host = Node()
    with running(host):
        started = time.monotonic()
        with pytest.raises(KnockRefused, match=r"does not admit this ticket.*ask for a new one"):
            knock(host.address, host.key, random_pair(), b"me", 20)
        assert time.monotonic() - started < 20
        assert host.core.knocks == []


def test_nobody_there_and_somebody_else_there_are_timeouts_that_say_so() -> None:
    with pytest.raises(KnockTimeout, match=r"127\.0\.0\.1:1 within 0\.3 s: nobody answers"):
        knock("tcp://127.0.0.1:1", random_pair().public, random_pair(), b"me", 0.3)
    host = Node()
    with running(host), pytest.raises(KnockTimeout, match="another key"):
        knock(host.address, random_pair().public, random_pair(), b"me", 0.3)


def test_knocks_are_limited() -> None:
    host, invite = Node(limits=Limits(knocks_per_minute=8)), random_pair()
    host.admit(invite.public, "invite")
    with running(host):
        for _ in range(2):
            knock(host.address, host.key, invite, b"me", 2)
        with pytest.raises(KnockTimeout):
            knock(host.address, host.key, invite, b"me", 0.5)
        assert len(host.core.knocks) == 2
        assert host.traced(PeerClosedTrace)[0].reason == "too many join attempts"


def test_a_flood_of_knocks_does_not_keep_the_owner_out() -> None:
    host, invite, owner = Node(limits=Limits(knocks_per_minute=8)), random_pair(), random_pair()
    host.admit(invite.public, "invite")
    host.admit(owner.public, "owner")
    with running(host):
        for _ in range(2):
            knock(host.address, host.key, invite, b"me", 2)
        with pytest.raises(KnockTimeout):
            knock(host.address, host.key, invite, b"me", 0.5)
        for _ in range(4):
            knock(host.address, host.key, owner, b"an order", 2)
        assert len(host.core.knocks) == 6


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
