"""While a stream is under way other bulk has 50 ms of the uplink on the way, beside what distance takes."""

from __future__ import annotations

import pytest

from transport.yielding import HELD_S, LEAST_BYTES, LEAST_SLICE, MOST_SLICE, SHARE, UNDER_WAY_S, Uplink

RATE = 12.5e6
BOUND_S = 0.05


class Line:
    """What is handed over leaves at a rate, and is known to have come after a round trip."""

    def __init__(
        self,
        rate: float = RATE,
        round_trip_s: float = 0.0,
        num_flows: int = 1,
        num_patient: int | None = None,
    ) -> None:
        self.num_patient = num_flows if num_patient is None else num_patient
        self.uplink, self.rate, self.round_trip_s = Uplink(), rate, round_trip_s
        self.now, self.free_at = 0.0, 0.0
        self.handed, self.heard = [0] * num_flows, [0] * num_flows
        self.coming: list[tuple[float, int, int]] = []
        self.longest_queue_s = 0.0
        self.uplink.streamed(0.0)

    def tell(self, flow: int) -> None:
        counts, patient = (self.handed[flow], self.heard[flow]), flow < self.num_patient
        self.uplink.told(self.now, flow, *counts, self.round_trip_s, patient=patient)

    def hear(self) -> None:
        for at, flow, size in [each for each in self.coming if each[0] <= self.now]:
            self.coming.remove((at, flow, size))
            self.heard[flow] += size
            self.tell(flow)

    def hand(self, flow: int, size: int) -> None:
        self.handed[flow] += size
        self.free_at = max(self.free_at, self.now) + size / self.rate
        self.coming.append((self.free_at + self.round_trip_s, flow, size))
        self.tell(flow)

    def run(self, seconds: float) -> float:
        """All flows have as much to send as they may; the share of the line that they use."""
        until, before, turn = self.now + seconds, sum(self.heard), 0
        while self.now < until:
            self.hear()
            self.uplink.streamed(self.now)
            size = self.uplink.slice_bytes
            wait_s = self.uplink.wait_s(self.now, size)
            if wait_s:
                self.longest_queue_s = max(self.longest_queue_s, self.free_at - self.now)
                self.now += wait_s
            else:
                turn = (turn + 1) % self.num_patient
                self.hand(turn, size)
        return (sum(self.heard) - before) / seconds / self.rate


@pytest.mark.parametrize("num_flows", [1, 8])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("rate", [1.25e6, RATE, 125e6])
def test_no_more_than_50_ms_are_queued_and_the_line_is_full_all_the_same(
    rate: float, round_trip_s: float, num_flows: int
) -> None:
    line = Line(rate, round_trip_s, num_flows)
    line.run(8.0)
    line.longest_queue_s = 0.0
    assert line.run(4.0) > 0.8
    # Many flows on a slow line get a slice or two each in a round trip: their rates, and so what is on the
    # way, are known no better than to some slices.
    slices = 4 if num_flows > 1 else 2
    assert line.longest_queue_s <= max(BOUND_S, HELD_S + slices * LEAST_SLICE / rate)
    assert line.uplink.rate == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("num_flows", [1, 8])
@pytest.mark.parametrize("round_trip_s", [0.03, 0.1])
@pytest.mark.parametrize("pause_s", [0.0, 0.5])
def test_what_leaves_at_once_after_a_pause_is_not_taken_to_be_on_the_way(
    pause_s: float, round_trip_s: float, num_flows: int
) -> None:
    line = Line(RATE, round_trip_s, num_flows)
    line.run(8.0)
    while line.coming:
        line.now += 0.001
        line.hear()
    line.now += pause_s
    line.longest_queue_s = 0.0
    assert line.run(2.0) > 0.7
    assert line.longest_queue_s <= BOUND_S + line.uplink.slice_bytes / RATE


def test_nobody_waits_unless_a_stream_is_under_way() -> None:
    uplink = Uplink()
    assert not uplink.is_shared(0.0)
    uplink.told(0.0, "flow", 1 << 40, 0, 0.0, patient=True)
    assert uplink.wait_s(0.0, 1) == 0.0
    uplink.streamed(0.0)
    assert uplink.wait_s(UNDER_WAY_S - 0.1, 1) > 0.0
    assert uplink.wait_s(UNDER_WAY_S, 1) == 0.0
    assert not uplink.is_shared(UNDER_WAY_S)


def test_what_was_under_way_before_the_stream_counts_and_goes_with_its_connection() -> None:
    uplink = Uplink()
    uplink.streamed(0.0)
    uplink.told(0.0, "a", 5 * LEAST_BYTES, 0, 0.0, patient=True)
    uplink.told(0.0, "b", LEAST_BYTES, 0, 0.0, patient=True)
    assert uplink.wait_s(0.0, 1) > 0.0
    uplink.forget("a")
    assert uplink.wait_s(0.0, 1) > 0.0
    uplink.told(0.0, "b", LEAST_BYTES, LEAST_BYTES, 0.0, patient=True)
    assert uplink.wait_s(0.0, 1 << 30) == 0.0, "one slice may leave whatever its size"
    uplink.forget("nobody")


def test_what_streams_have_under_way_does_not_hold_other_bulk_and_tells_how_fast_the_line_is() -> None:
    line = Line(num_flows=2)
    for _ in range(50):
        line.now += 0.1
        line.handed[0] += int(RATE / 10)
        line.heard[0] += int(RATE / 10)
        line.uplink.told(line.now, 0, line.handed[0] + 10 * MOST_SLICE, line.heard[0], 0.0, patient=False)
    assert line.uplink.rate == pytest.approx(RATE, rel=0.01)
    line.hand(1, int(HELD_S * RATE / 2))
    assert line.uplink.wait_s(line.now, LEAST_SLICE) == 0.0
    line.hand(1, int(HELD_S * RATE / 2))
    assert line.uplink.wait_s(line.now, LEAST_SLICE) > 0.0


def test_a_line_that_gets_slower_is_taken_for_what_it_is_after_a_while() -> None:
    line = Line()
    line.run(2.0)
    line.rate = RATE / 4
    line.run(12.0)
    assert line.uplink.rate == pytest.approx(RATE / 4, rel=0.1)
    line.longest_queue_s = 0.0
    line.run(1.0)
    assert line.longest_queue_s <= BOUND_S


def test_slices_are_a_few_milliseconds_of_the_line() -> None:
    assert Uplink().slice_bytes == LEAST_SLICE
    line = Line(125e6)
    line.run(1.0)
    assert LEAST_SLICE < line.uplink.slice_bytes <= 0.01 * 125e6 < 2 * MOST_SLICE


def shared_for(seconds: float, line: Line, streamed: float, every_s: float = 0.05) -> int:
    """Patient bytes that leave in so long over the first flow, while so many bytes of a stream per second
    leave over the second, every now and then."""
    before, until, next_at = line.handed[0], line.now + seconds, line.now
    while line.now < until:
        line.hear()
        if line.now >= next_at:
            line.uplink.streamed(line.now)
            line.hand(1, int(streamed * every_s))
            next_at += every_s
        wait_s = line.uplink.wait_s(line.now, line.uplink.slice_bytes)
        if wait_s:
            line.now += wait_s
        else:
            line.hand(0, line.uplink.slice_bytes)
    return line.handed[0] - before


def test_while_bytes_of_a_stream_wait_to_leave_other_bulk_has_at_most_a_twentieth_of_the_line() -> None:
    line = Line(num_flows=2, num_patient=1)
    line.run(3.0)
    shared_for(2.0, line, 2 * RATE)
    left = shared_for(4.0, line, 2 * RATE) / (RATE * 4.0)
    assert 0.01 < left < 1.2 * SHARE


@pytest.mark.parametrize("streamed", [0.02, 0.25])
@pytest.mark.parametrize("is_known", [True, False])
def test_other_bulk_has_what_the_stream_leaves_of_a_line_also_of_one_that_is_faster_than_was_seen(
    streamed: float, is_known: bool
) -> None:
    line = Line(num_flows=2, num_patient=1)
    if is_known:
        line.run(3.0)
    shared_for(3.0, line, streamed * RATE)
    assert shared_for(4.0, line, streamed * RATE) > 0.8 * (1 - streamed) * RATE * 4.0


@pytest.mark.parametrize("round_trip_s", [0.0, 0.1])
def test_bytes_of_a_stream_that_the_network_has_not_taken_hold_other_bulk(round_trip_s: float) -> None:
    line = Line()
    line.run(3.0)
    line.now += 5.0
    line.hear()
    line.hand(0, 1000)
    on_the_way = int(1.1 * line.uplink.rate * round_trip_s)
    line.uplink.told(line.now, "stream", on_the_way + MOST_SLICE, 0, round_trip_s, patient=False)
    assert line.uplink.wait_s(line.now, LEAST_SLICE) > 0.0
    line.uplink.told(
        line.now, "stream", on_the_way + MOST_SLICE, MOST_SLICE + on_the_way // 4, round_trip_s, patient=False
    )
    assert line.uplink.wait_s(line.now, LEAST_SLICE) == 0.0


def test_what_came_while_nobody_looked_does_not_make_the_line_faster() -> None:
    line = Line(num_flows=2, num_patient=1)
    line.hand(1, 1000)
    line.run(2.0)
    line.now += 4.0
    for flow in (0, 1):
        line.handed[flow] += int(3 * RATE)
        line.heard[flow] = line.handed[flow]
    line.coming.clear()
    for _ in range(100):
        line.now += 0.01
        line.tell(0)
        line.tell(1)
    assert line.uplink.rate == pytest.approx(RATE, rel=0.1)
