"""The program's functions: what they raise is lost with a word, for events also with a trace."""

from __future__ import annotations

import pytest

from transport.effects import Trace
from transport.limits import LIMITS
from transport.sockets.callbacks import Callbacks
from transport.sockets.traces import CallbackFailedTrace, LaneLostTrace

LOST = LaneLostTrace("p", 0, "tcp://a:1", "it broke")


def fail(given: object) -> None:
    raise ValueError(f"cannot take {given}")


def test_what_is_given_is_handed_on() -> None:
    events, traces = list[object](), list[Trace]()
    callbacks = Callbacks(events.append, traces.append, lambda: 5.0)
    callbacks.event("one")
    callbacks.trace(LOST)
    assert (events, traces, callbacks.num_failed) == (["one"], [LOST], 0)


def test_an_event_that_cannot_be_taken_is_counted_logged_and_traced(caplog: pytest.LogCaptureFixture) -> None:
    traces = list[Trace]()
    callbacks = Callbacks(fail, traces.append, lambda: 5.0)
    callbacks.event("one")
    (failed,) = traces
    assert isinstance(failed, CallbackFailedTrace)
    assert (failed.error, failed.number) == ("ValueError: cannot take one", 1)
    assert "function for events failed at str, the 1. time" in caplog.text


def test_where_both_fail_each_is_counted_and_the_log_stays_short(caplog: pytest.LogCaptureFixture) -> None:
    callbacks = Callbacks(fail, fail, lambda: 5.0)
    for _ in range(100):
        callbacks.event("one")
    assert callbacks.num_failed == 200
    assert len(caplog.records) == 2 * LIMITS.lines_per_peer
