"""The core's runner: an input's effects are carried out in order, and frames are counted by what they are."""

from __future__ import annotations

import pytest

from tests.net.swarm_kit import EchoCore
from transport.counters import OTHERS, Traffic
from transport.effects import Close, Deliver, Effect, Send, Store, Trace
from transport.guarded import InputLostTrace
from transport.sockets.core_runner import CoreRunner
from transport.sockets.traces import LaneLostTrace
from transport.sockets.wire import Outgoing


class Run:
    """A runner at five o'clock, and what it did."""

    def __init__(self) -> None:
        self.core = EchoCore()
        self.done: list[Effect] = []
        self.traces: list[Trace] = []
        self.runner = CoreRunner(self.core, lambda: 5.0, self.traces.append, self.done.append)


def test_an_input_is_given_the_time_and_its_effects_are_carried_out_in_order() -> None:
    run = Run()
    effects: list[Effect] = [Deliver("a"), Store(b"b"), Send(b"p", 0, b"c")]

    def put(now: float) -> float:
        run.core.out += effects
        return now

    assert run.runner.feed(put) == 5.0
    assert run.done == effects
    assert run.core.drain() == []


def test_effects_of_an_input_that_fails_wait_for_the_next() -> None:
    run = Run()

    def fail(now: float) -> None:
        run.core.out.append(Deliver("a"))
        raise ValueError("bad input")

    with pytest.raises(ValueError, match="bad input"):
        run.runner.feed(fail)
    assert run.done == []
    run.runner.feed(lambda now: None)
    assert run.done == [Deliver("a")]


def test_a_frame_at_which_the_core_fails_is_lost_and_told_and_its_peer_is_closed() -> None:
    run = Run()
    run.core.fails_at = b"poison"
    run.runner.receive(b"p", 0, b"poison", None)
    stored, closed, lost = run.done
    assert (stored, closed) == (Store(b"half"), Close(b"p", "an input of it failed here: KeyError"))
    assert isinstance(lost, InputLostTrace)
    run.runner.receive(b"p", 0, b"echo", None)
    assert run.done[3:] == [Send(b"p", 0, b"back", None)]


def test_a_frame_reaches_the_core_and_is_counted_with_its_tail() -> None:
    run = Run()
    run.runner.receive(b"p", 0, b"echo", None)
    run.runner.receive(b"p", 1, b"bulk", memoryview(bytes(10)))
    assert run.core.received == [(b"p", 0, b"echo", None), (b"p", 1, b"bulk", bytes(10))]
    assert run.done == [Send(b"p", 0, b"back", None)]
    counts = run.runner.counters.snapshot()
    assert counts[b"p", "received", "control"] == Traffic(1, 7)
    assert counts[b"p", "received", "bulk"] == Traffic(1, 17)


def test_what_is_sent_is_counted_by_peer_and_an_answer_to_a_knock_by_nobody() -> None:
    run = Run()
    run.runner.count_sent(b"p", Outgoing(1, b"head", bytes(5), "exchange", True))
    run.runner.count_sent(b"p", Outgoing(0, b"head", None, "knock", False))
    assert run.runner.counters.snapshot() == {
        (b"p", "sent", "exchange"): Traffic(0, 0, 1, 12),
        (OTHERS, "sent", "knock"): Traffic(1, 7),
    }


def test_what_the_driver_does_by_itself_is_traced() -> None:
    run = Run()
    lost = LaneLostTrace("peer", 1, "tcp://a:1", "it broke")
    run.runner.trace(lost)
    assert run.traces == [lost]
