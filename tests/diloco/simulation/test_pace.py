"""How long steps take: exactly as told, spread around it, or wandering, as the seed has it."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from diloco.simulation.pace import Clockwork, StepTime


def durations(step_time: StepTime, count: int, seed: int = 0) -> list[float]:
    return Clockwork(step_time, random.Random(seed)).durations(count)


def test_without_spread_every_step_takes_the_same() -> None:
    assert durations(StepTime(0.25), 4) == [0.25] * 4


def test_a_jitter_spreads_steps_and_leaves_their_mean() -> None:
    steps = durations(StepTime(2.0, jitter=0.3), 20_000)
    assert statistics.fmean(steps) == pytest.approx(2.0, rel=0.01)
    assert statistics.stdev(map(math.log, steps)) == pytest.approx(0.3, rel=0.03)


def test_a_drift_wanders_by_so_much_in_an_hour_however_steps_are_counted() -> None:
    def after_an_hour(at_once: int, seed: int) -> float:
        clockwork = Clockwork(StepTime(36.0, drift=0.2), random.Random(seed))
        for _ in range(100 // at_once):
            clockwork.durations(at_once)
        return math.log(clockwork.durations(1)[0] / 36.0)

    for at_once in (1, 50):
        moved = [after_an_hour(at_once, seed) for seed in range(400)]
        assert statistics.stdev(moved) == pytest.approx(0.2, rel=0.15)


def test_the_generator_decides_the_steps() -> None:
    step_time = StepTime(1.0, jitter=0.1, drift=0.1)
    assert durations(step_time, 5, seed=1) == durations(step_time, 5, seed=1)
    assert durations(step_time, 5, seed=1) != durations(step_time, 5, seed=2)
