"""The gate of a limited upload: threads wait at it, control is counted, and without a limit nobody waits."""

from __future__ import annotations

import pytest

from transport.sealed.upload import BURST_S
from transport.sockets.upload_gate import Progress, UploadGate
from transport.yielding import LEAST_BYTES, UNDER_WAY_S


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


class Sending:
    """A connection of which the kernel has taken what was handed to it, and the other end a part."""

    def __init__(self, gate: UploadGate, *, patient: bool = True) -> None:
        self.handed = self.heard = 0
        self.is_gone = False
        gate.join(self, self.progress, patient=patient)

    def progress(self) -> Progress | None:
        return None if self.is_gone else Progress(self.handed, self.heard, 0.0)


def test_without_a_stream_nobody_waits_and_what_is_handed_over_is_not_cut() -> None:
    hands = Hands()
    gate = hands.gate(None)
    sending = Sending(gate)
    assert gate.wait_turn(sending, 1 << 30, lambda: False) == 1 << 30
    assert (gate.patient_wait_s(1 << 30), hands.slept) == (0.0, [])


def test_while_a_stream_is_under_way_bulk_leaves_in_slices_and_waits_for_what_is_on_the_way() -> None:
    hands = Hands()
    gate = hands.gate(None)
    one, two = Sending(gate), Sending(gate)
    gate.streams()
    size = gate.wait_turn(one, 1 << 20, lambda: False)
    assert 0 < size < 1 << 20
    one.handed += size
    gate.wait_turn(two, 1 << 20, lambda: len(hands.slept) > 2)
    two.handed += LEAST_BYTES
    hands.now += 0.01
    assert gate.patient_wait_s(1) > 0.0
    gate.wait_turn(one, 1 << 20, lambda: len(hands.slept) > 10)
    assert len(hands.slept) > 10, "it waits until it is over"
    two.heard = two.handed
    one.heard = one.handed
    hands.now += 0.01
    assert gate.patient_wait_s(1) == 0.0


def test_what_was_on_the_way_over_a_connection_that_is_gone_holds_nobody() -> None:
    for is_told in (True, False):
        hands = Hands()
        gate = hands.gate(None)
        gone = Sending(gate)
        gone.handed = 10 * LEAST_BYTES
        gate.streams()
        hands.now += 0.01
        assert gate.patient_wait_s(1) > 0.0
        gone.is_gone = True
        if is_told:
            gate.leave(gone)
        hands.now += 0.01
        assert gate.patient_wait_s(1) == 0.0


def test_when_no_stream_is_under_way_any_more_nobody_waits() -> None:
    hands = Hands()
    gate = hands.gate(None)
    sending = Sending(gate)
    sending.handed = 10 * LEAST_BYTES
    gate.streams()
    hands.now += 0.01
    assert gate.patient_wait_s(1) > 0.0
    hands.now += UNDER_WAY_S
    assert gate.patient_wait_s(1) == 0.0
    assert not gate.is_shared


def test_of_a_limited_upload_bulk_leaves_the_turn_to_a_stream() -> None:
    hands = Hands()
    gate = hands.gate(1e6)
    stream, sending = Sending(gate, patient=False), Sending(gate)
    gate.streams()
    gate.wait_after(100_000)
    hands.slept.clear()
    gate.count(50_000)
    assert gate.wait_turn(sending, 1 << 20, lambda: False) <= 10_000
    assert sum(hands.slept) >= 0.04, "the stream had its time first"
    stream.handed = 1 << 30
    hands.now += 1.0
    assert gate.patient_wait_s(1) == 0.0
