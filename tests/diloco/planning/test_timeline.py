"""Steps, exchanges and waits add up, for one worker and for many whose steps differ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diloco.planning.timeline import Groups, Load, Timing, steady, together


def test_what_is_hidden_and_what_is_exposed_is_all_that_the_line_is_busy() -> None:
    for delay in (0, 2, 10):
        load = Load(1.0, 10, lambda step: [0] if step == 10 else [], [4.0], delay=delay)
        timing = steady(load)
        assert timing.compute_s == pytest.approx(10.0)
        assert timing.exposed_s == pytest.approx(max(0.0, 4.0 - delay))
        assert timing.hidden_s + timing.exposed_s == pytest.approx(4.0)


def test_a_result_that_is_due_with_the_next_offer_is_waited_for() -> None:
    load = Load(1.0, 10, lambda step: [0] if step == 10 else [], [14.0], delay=10)
    assert steady(load).utilization == pytest.approx(10 / 14)


def every(steps: int, wire_s: float, delay: int = 0) -> Load:
    return Load(1.0, steps, lambda step: [0] if step == steps else [], [wire_s], delay=delay)


def test_exchanges_take_the_line_one_after_the_other() -> None:
    load = Load(1.0, 10, lambda step: [0, 1] if step == 10 else [], [2.0, 3.0])
    assert steady(load).exposed_s == pytest.approx(5.0)
    apart = Load(1.0, 10, lambda step: {5: [0], 10: [1]}.get(step, []), [2.0, 3.0])
    assert steady(apart).exposed_s == pytest.approx(5.0)


def test_latency_is_waited_for_and_keeps_no_line_busy() -> None:
    load = Load(1.0, 10, lambda step: [0] if step == 10 else [], [2.0], latency_s=0.5)
    assert steady(load).exposed_s == pytest.approx(2.5)


def test_layers_are_exchanged_within_the_step_whose_gradient_they_are() -> None:
    layers = Load(8.0, 1, lambda step: [0, 1, 2], [1.0] * 3, layered=True)
    whole = Load(8.0, 1, lambda step: [0], [3.0])
    assert steady(layers).compute_s == pytest.approx(8.0)
    assert 0.0 < steady(layers).exposed_s < steady(whole).exposed_s == pytest.approx(3.0)


def test_workers_that_are_alike_are_one_worker() -> None:
    for load in (every(10, 4.0), every(10, 4.0, delay=2), every(10, 14.0, delay=10)):
        assert together(load, lambda: np.ones(5)) == pytest.approx(steady(load).utilization)


def test_all_wait_for_the_slowest_and_pairs_for_their_slower_one() -> None:
    def steps() -> np.ndarray:
        return np.array([1.0, 1.0, 2.0, 2.0])

    def pairs(*group_of: int) -> Groups:
        return Groups(np.array(group_of), np.zeros(2))

    everyone = together(every(10, 0.0), steps)
    assert everyone == pytest.approx((0.5 + 0.5 + 1.0 + 1.0) / 4)
    equal_pairs = together(every(10, 0.0), steps, lambda: pairs(0, 0, 1, 1))
    assert equal_pairs == pytest.approx(1.0)
    unequal_pairs = together(every(10, 0.0), steps, lambda: pairs(0, 1, 0, 1))
    assert unequal_pairs == pytest.approx(everyone)


def test_a_longer_exchange_of_one_group_holds_up_who_meets_it_later() -> None:
    load = Load(1.0, 1, lambda step: [0], [0.0])
    turns = itertools.cycle(
        [Groups(np.array([0, 0, 1, 1]), np.array([3.0, 1.0])), Groups(np.array([0, 1, 0, 1]), np.zeros(2))]
    )
    # All wait for what took three seconds, one of every two steps.
    assert together(load, lambda: np.ones(4), lambda: next(turns), periods=201) == pytest.approx(
        2 / 5, rel=0.02
    )


def test_a_timing_of_several_periods_is_as_many_times_as_long() -> None:
    timing = steady(every(10, 4.0))
    assert timing.times(0.5) == Timing(timing.compute_s / 2, timing.exposed_s / 2, timing.hidden_s / 2)
    assert timing.times(0.5).utilization == pytest.approx(timing.utilization)
