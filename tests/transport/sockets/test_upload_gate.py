"""The gate of a limited upload: threads wait at it, control is counted, and without a limit nobody waits."""

from __future__ import annotations

import pytest

from transport.sealed.upload import BURST_S
from transport.sockets.upload_gate import UploadGate


class Hands:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def gate(self, bytes_per_s: float | None) -> UploadGate:
        return UploadGate(bytes_per_s, self.clock, self.sleep)


def test_whoever_sends_waits_as_long_as_its_bytes_take() -> None:
    hands = Hands()
    gate = hands.gate(1e6)
    assert gate.slice_bytes == 50_000
    for _ in range(200):
        gate.wait_after(gate.slice_bytes)
    assert hands.now - 100.0 == pytest.approx(10.0 - BURST_S)


def test_control_is_counted_and_bulk_waits_for_it() -> None:
    hands = Hands()
    gate = hands.gate(1e6)
    gate.count(500_000)
    assert hands.slept == []
    assert gate.wait_s() == pytest.approx(0.5 - BURST_S)
    gate.wait_after(100_000)
    assert sum(hands.slept) == pytest.approx(0.6 - BURST_S)
    assert gate.wait_s() == pytest.approx(0.0, abs=1e-9)


def test_bulk_of_the_drivers_thread_has_its_turn_among_threads_that_send_all_the_time() -> None:
    now, slept = [0.0], [0.0]
    gate = UploadGate(1e6, lambda: now[0], slept.append)
    ready, sent = [0.0] * 3, [0] * 3
    while min(ready) < 10.0:
        now[0] = min(ready)
        sender = ready.index(now[0])
        slept[:] = [0.0]
        if sender:
            gate.wait_after(gate.slice_bytes)
            sent[sender] += gate.slice_bytes
        elif gate.wait_s() == 0.0:
            gate.count(100_000)
            sent[sender] += 100_000
        ready[sender] += sum(slept) if sender else max(1e-6, gate.wait_s())
    assert sent[0] >= 3_000_000
    assert sum(sent) == pytest.approx(10e6, rel=0.03)


def test_whoever_is_over_waits_no_longer() -> None:
    hands = Hands()
    gate = hands.gate(1e6)
    gate.count(60_000_000)
    gate.wait_after(1000, lambda: len(hands.slept) == 3)
    assert len(hands.slept) == 3
    assert sum(hands.slept) < 1.0


def test_without_a_limit_nobody_waits() -> None:
    hands = Hands()
    gate = hands.gate(None)
    gate.count(1 << 40)
    gate.wait_after(1 << 40)
    assert gate.wait_s() == 0.0
    assert hands.slept == []
    assert not gate.is_limited
