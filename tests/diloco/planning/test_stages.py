"""The formula of a model in stages, against a model that moves every microbatch event by event."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from diloco.methods.presets import method
from diloco.planning.predict import memory
from diloco.planning.stages import StagedModel, StageTimes


class Events:
    """One inner step of a line: replicas that compute, each with one line up and one down.

    Knows no formula. Backward goes before forward, the last stage does both as one, lines send in the order
    in which they are asked, and the feeder lets ``window`` microbatches be under way.
    """

    def __init__(self, times: StageTimes, num_microbatches: int, window: int) -> None:
        self.times, self.num, self.window = times, num_microbatches, window
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = itertools.count()
        self.now = self.end_s = 0.0
        self.busy = [False] * times.stages
        self.forwards: list[list[int]] = [[] for _ in range(times.stages)]
        self.backwards: list[list[int]] = [[] for _ in range(times.stages)]
        self.up_free = [0.0] * times.stages
        self.down_free = [0.0] * times.stages
        self.num_fed = self.num_back = 0

    def utilization(self) -> float:
        self.feed()
        while self.heap:
            self.now, _, happen = heapq.heappop(self.heap)
            happen()
        assert self.num_back == self.num
        return self.num * (self.times.forward_s + self.times.backward_s) / (self.end_s + self.times.step_s)

    def at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (when, next(self.serial), happen))

    def feed(self) -> None:
        while self.num_fed < self.num and self.num_fed - self.num_back < self.window:
            self.forwards[0].append(self.num_fed)
            self.num_fed += 1
        self.compute(0)

    def compute(self, stage: int) -> None:
        if self.busy[stage]:
            return
        is_last = stage == self.times.stages - 1
        if self.backwards[stage]:
            microbatch, seconds = self.backwards[stage].pop(0), self.times.backward_s
            backward = True
        elif self.forwards[stage]:
            microbatch = self.forwards[stage].pop(0)
            seconds = self.times.forward_s + (self.times.backward_s if is_last else 0.0)
            backward = is_last
        else:
            return
        self.busy[stage] = True
        self.at(self.now + seconds, lambda: self.computed(stage, microbatch, backward))

    def computed(self, stage: int, microbatch: int, backward: bool) -> None:
        self.busy[stage] = False
        if not backward:
            self.send(stage, stage + 1, self.times.activation_s, self.forwards, microbatch)
        elif stage > 0:
            self.send(stage, stage - 1, self.times.gradient_s, self.backwards, microbatch)
        else:
            self.num_back += 1
            self.end_s = self.now
            self.feed()
        self.compute(stage)

    def send(self, stage: int, to: int, line_s: float, queues: list[list[int]], microbatch: int) -> None:
        begins = max(self.now, self.up_free[stage])
        self.up_free[stage] = begins + line_s
        arrives = max(begins + self.times.latency_s, self.down_free[to]) + line_s
        self.down_free[to] = arrives

        def arrive() -> None:
            queues[to].append(microbatch)
            self.compute(to)

        self.at(arrives, arrive)


def by_events(times: StageTimes, num_microbatches: int, window: int = 10**9) -> float:
    return Events(times, num_microbatches, window).utilization()


@pytest.mark.parametrize(
    ("stages", "forward_s", "latency_s", "line_s", "num", "window", "events", "formula"),
    [
        (4, 1, 0.05, 0.1, 8, 8, 0.708, 0.708),
        (8, 1, 0.1, 0.5, 32, 16, 0.766, 0.766),
        (8, 1, 0.1, 2, 64, 32, 0.642, 0.629),
        (16, 0.3, 0.1, 0.2, 256, 64, 0.911, 0.911),
        (32, 0.2, 0.05, 0.1, 128, 64, 0.734, 0.734),
    ],
)
def test_published_rows_of_both_models(
    stages: int,
    forward_s: float,
    latency_s: float,
    line_s: float,
    num: int,
    window: int,
    events: float,
    formula: float,
) -> None:
    times = StageTimes(stages, forward_s, 2 * forward_s, latency_s, line_s, line_s)
    assert times.utilization(num) == pytest.approx(formula, abs=5e-4)
    assert by_events(times, num, window) == pytest.approx(events, abs=5e-3)


def drawn(rng: random.Random, share: float) -> StageTimes:
    """Any line of replicas whose own line is busy for that share of the time in which they compute."""
    forward_s = rng.uniform(0.1, 1.0)
    backward_s = forward_s * rng.choice([2, 3])
    line_s = share * (forward_s + backward_s) / 2
    return StageTimes(
        stages=rng.randint(1, 16),
        forward_s=forward_s,
        backward_s=backward_s,
        latency_s=rng.uniform(0.0, 0.5),
        activation_s=line_s,
        gradient_s=line_s,
        step_s=rng.choice([0.0, 1.0]),
    )


@pytest.mark.parametrize("seed", range(40))
def test_where_computing_is_the_limit_the_formula_is_what_happens(seed: int) -> None:
    rng = random.Random(seed)
    times, num = drawn(rng, rng.uniform(0.0, 0.6)), rng.randint(1, 100)
    assert by_events(times, num) == pytest.approx(times.utilization(num), rel=1e-3)
    assert by_events(times, num, times.window) > 0.99 * times.utilization(num)


@pytest.mark.parametrize("seed", range(40))
def test_where_lines_are_as_busy_it_is_a_bound(seed: int) -> None:
    rng = random.Random(seed)
    times, num = drawn(rng, rng.uniform(0.6, 1.0)), rng.randint(1, 100)
    assert 0.88 < by_events(times, num) / times.utilization(num) < 1.0001
    assert by_events(times, num, times.window) > 0.82 * times.utilization(num)


@pytest.mark.parametrize("seed", range(40))
def test_where_lines_are_the_limit_it_is_near(seed: int) -> None:
    rng = random.Random(seed)
    times, num = drawn(rng, rng.uniform(1.4, 3.0)), rng.randint(32, 128)
    assert 0.9999 < by_events(times, num) / times.utilization(num) < 1.05
    assert by_events(times, num, times.window) > 0.95 * times.utilization(num)


def test_known_bubble_without_distance() -> None:
    for stages, num in ((1, 5), (4, 1), (4, 8), (16, 64)):
        times = StageTimes(stages, 1.0, 2.0, 0.0, 0.0, 0.0)
        assert times.utilization(num) == pytest.approx(num / (num + stages - 1))


def test_a_third_of_the_window_is_clearly_too_little() -> None:
    for stages, latency_s, line_s in ((4, 0.3, 0.1), (8, 0.1, 0.5), (8, 0.1, 2.0), (16, 1.0, 0.2)):
        times = StageTimes(stages, 1.0, 2.0, latency_s, line_s, line_s)
        assert times.window == math.ceil(1.5 * times.alone_s / times.period_s)
        assert by_events(times, 64, times.window // 3) < 0.9 * by_events(times, 64)


def test_two_stages_send_one_way_each_and_one_sends_nothing() -> None:
    two = StageTimes(2, 1.0, 2.0, 0.0, 2.0, 3.5)
    assert (two.line_s, two.period_s) == (3.5, 3.5)
    assert replace(two, stages=3).line_s == 5.5
    one = replace(two, stages=1)
    assert (one.period_s, one.alone_s) == (3.0, 3.0)


def test_the_step_itself_takes_time() -> None:
    times = StageTimes(1, 1.0, 2.0, 0.0, 0.0, 0.0, step_s=3.0)
    assert times.utilization(3) == pytest.approx(0.75)


# -- models of the sizes that matter ------------------------------------------------------------------

WIRE = {"bf16": 2.0, "int8": 1.03, "int4": 34 / 64, "waist": 0.02}


@pytest.mark.parametrize(
    ("parameters", "width", "stages", "teraflops", "t", "gbps", "at_100m", "at_1g", "no_lines", "gigabytes"),
    [
        (6.6e9, 4096, 4, 66, 0.82, 0.34, (15, 28, 54, 95), (93, 94, 94, 95), 96, 26),
        (6.6e9, 4096, 8, 66, 0.41, 0.68, (7, 13, 25, 88), (64, 83, 86, 89), 90, 13),
        (70e9, 8192, 10, 160, 1.43, 0.39, (12, 22, 42, 86), (80, 83, 85, 87), 88, 112),
        (70e9, 8192, 20, 66, 1.74, 0.32, (12, 23, 41, 75), (67, 71, 74, 76), 77, 56),
        (107e9, 10496, 20, 160, 1.10, 0.65, (6, 12, 22, 74), (52, 66, 71, 76), 77, 86),
        (107e9, 10496, 20, 1280, 0.14, 5.2, (1, 1, 3, 58), (8, 14, 26, 69), 77, 86),
    ],
)
def test_large_models_over_the_internet(
    parameters: float,
    width: int,
    stages: int,
    teraflops: float,
    t: float,
    gbps: float,
    at_100m: tuple[int, ...],
    at_1g: tuple[int, ...],
    no_lines: int,
    gigabytes: int,
) -> None:
    """Microbatches of 4,096 tokens, 64 a step, round trips of 60 ms; int8's scales are 3 %."""
    model = StagedModel(parameters, width, stages, 4096, teraflops * 1e12)
    assert model.compute_s == pytest.approx(t, abs=6e-3)
    assert model.least_rate_bps(WIRE["int8"]) / 1e9 == pytest.approx(gbps, rel=0.02)
    for rate_bps, expected in ((1e8, at_100m), (1e9, at_1g)):
        found = [model.times(each, rate_bps, 0.06).utilization(64) for each in WIRE.values()]
        assert tuple(round(100 * each) for each in found) == expected
    assert round(100 * model.times(0.0, 1e9, 0.0).utilization(64)) == no_lines
    assert round(16 * parameters / stages / 1e9) == gigabytes


def test_larger_steps_fill_the_line() -> None:
    times = StagedModel(70e9, 8192, 10, 4096, 160e12).times(1.03, 1e9, 0.06)
    found = [round(100 * times.utilization(num)) for num in (32, 64, 128, 256, 512)]
    assert found == [71, 83, 91, 95, 98]


def test_at_the_least_rate_line_and_replica_are_as_busy() -> None:
    for recompute in (True, False):
        model = StagedModel(70e9, 8192, 10, 4096, 160e12, recompute)
        times = model.times(1.03, model.least_rate_bps(1.03), 0.06)
        assert times.line_s == pytest.approx(times.compute_s)
    assert model.compute_s == pytest.approx(6 * 7e9 * 4096 / 160e12)


def test_wider_layers_need_less_of_the_line() -> None:
    """Twice the width has four times the parameters of a layer, and twice the bytes."""
    narrow = StagedModel(1e9, 1024, 4, 4096, 66e12)
    wide = StagedModel(4e9, 2048, 4, 4096, 66e12)
    assert wide.least_rate_bps(1.0) == pytest.approx(narrow.least_rate_bps(1.0) / 2)


def test_memory_is_a_worker_of_the_stages_size_and_a_window_of_microbatches() -> None:
    model, chosen = StagedModel(6.6e9, 4096, 4, 4096, 66e12), method("diloco")
    device, host = memory(chosen, 1.65e9, 2)
    one = 4096 * 4096
    assert model.memory(chosen, 2, 10, 4.0, 1.0) == pytest.approx((device + 40 * one, host + 10 * one))
    assert device > 16 * 1.65e9


def test_the_fewest_microbatches_that_keep_replicas_busy() -> None:
    times = StagedModel(70e9, 8192, 10, 4096, 160e12).times(1.03, 1e9, 0.06)
    for target in (0.5, 0.9, 0.95):
        count = times.microbatches_for(target)
        assert count is not None
        assert times.utilization(count) >= target > times.utilization(count - 1)
    slow = StagedModel(70e9, 8192, 10, 4096, 160e12).times(1.03, 1e8, 0.06)
    assert slow.microbatches_for(0.9) is None
    assert StageTimes(1, 1.0, 2.0, 0.0, 0.0, 0.0).microbatches_for(0.9) == 1


@pytest.mark.parametrize(("line_s", "num", "whole", "split"), [(0.3, 16, 64, 91), (0.5, 32, 77, 100)])
def test_split_backward_fills_the_wait(line_s: float, num: int, whole: int, split: int) -> None:
    times = StageTimes(8, 1.0, 2.0, 0.1, line_s, line_s)
    assert round(100 * times.utilization(num)) == whole
    assert round(100 * times.utilization_split(num)) == split


def test_without_drains_only_the_line_is_in_the_way() -> None:
    assert StageTimes(8, 1.0, 2.0, 0.1, 0.3, 0.3).utilization_undrained == 1.0
    assert StageTimes(8, 1.0, 2.0, 0.1, 2.0, 2.0).utilization_undrained == pytest.approx(0.75)
