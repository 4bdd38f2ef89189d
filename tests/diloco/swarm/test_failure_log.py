"""What a process logs of failures: with their tracebacks, a few about one peer, and what the journal does."""

from __future__ import annotations

import pytest

from diloco.swarm.failure_log import TRACE, FailureLog
from transport.guarded import InputLostTrace
from transport.in_order import StoreFailedTrace, StoreRecoveredTrace
from transport.limits import LIMITS
from transport.sockets.traces import BulkOverControlTrace, LaneLostTrace, SocketFailedTrace


def lost(number: int, peer: bytes = b"p" * 32, barred_s: float = 0.0) -> InputLostTrace:
    return InputLostTrace(peer, "KeyError: 'gone'", "Traceback: in _take", number, barred_s)


def test_lines_about_one_peer_are_few_and_say_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [5.0]
    log = FailureLog(lambda: now[0])
    for number in range(100):
        log.trace(lost(number))
    assert len(caplog.records) == LIMITS.lines_per_peer
    log.trace(lost(100, b"q" * 32))
    assert len(caplog.records) == LIMITS.lines_per_peer + 1
    now[0] += 60.0
    log.trace(lost(101))
    assert f"{100 - LIMITS.lines_per_peer} more lines about it were left out" in caplog.records[-1].message


def test_each_failure_is_a_line_with_its_traceback_and_the_rest_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FailureLog(lambda: 5.0)
    log.trace(lost(1, barred_s=20.0))
    log.trace(SocketFailedTrace(b"p" * 32, "OSError: no", "Traceback: in send"))
    assert "Traceback: in _take" in caplog.text
    assert "not heard for 20 s" in caplog.text
    assert "Traceback: in send" in caplog.text
    log.trace(StoreFailedTrace("OSError: No space left on device"))
    log.trace(StoreRecoveredTrace(7.0))
    assert [each.levelname for each in caplog.records] == ["ERROR", "ERROR", "ERROR", "WARNING"]
    traces = [getattr(each, TRACE, None) for each in caplog.records]
    assert traces == [
        None,
        None,
        StoreFailedTrace("OSError: No space left on device"),
        StoreRecoveredTrace(7.0),
    ]
    log.trace(LaneLostTrace("p", 0, "tcp://a:1", "it broke"))
    assert len(caplog.records) == 4


def test_bulk_that_goes_over_the_control_connection_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    FailureLog(lambda: 5.0).trace(BulkOverControlTrace("annann22", "192.0.2.1:4001: Connection refused"))
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "annann22" in caplog.text
    assert "192.0.2.1:4001: Connection refused" in caplog.text
