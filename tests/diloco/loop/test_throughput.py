"""Speed: what a worker does now, without its waits and without what it did long ago."""

from __future__ import annotations

import pytest

from diloco.loop.throughput import Throughput


def test_speed_is_tokens_over_seconds_of_compute_and_none_before_the_first_step() -> None:
    speed = Throughput(10)
    assert speed.tokens_per_s == 0.0
    speed.count(1, 8, 2.0)
    assert speed.tokens_per_s == 4.0
    speed.count(3, 24, 6.0)
    assert speed.tokens_per_s == pytest.approx(4.0)


def test_a_change_is_half_known_after_the_half_life() -> None:
    speed = Throughput(10)
    for _ in range(1000):
        speed.count(1, 8, 1.0)
    for _ in range(10):
        speed.count(1, 8, 2.0)
    seconds_per_step = 8 / speed.tokens_per_s
    assert seconds_per_step == pytest.approx(1.5)


def test_steps_counted_at_once_forget_as_much_as_one_by_one() -> None:
    one_by_one, at_once = Throughput(10), Throughput(10)
    for speed in (one_by_one, at_once):
        speed.count(1, 8, 9.0)
    for _ in range(20):
        one_by_one.count(1, 0, 0.0)
    at_once.count(20, 0, 0.0)
    at_once.count(1, 8, 1.0)
    one_by_one.count(1, 8, 1.0)
    assert at_once.tokens_per_s == pytest.approx(one_by_one.tokens_per_s)
