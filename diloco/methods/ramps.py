"""Settings that may change over outer steps: a number, or points between which it moves in straight lines.

Owns how such a setting is read and checked, and its value at an outer step. Every value is a function of the
settings and of the fragment's count of outer steps, both of which all members share, by single operations on
doubles: all take the same step (S1). Needs no torch.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

Ramp = float | tuple[tuple[int, float], ...]
"""A number for all outer steps, or points (outer step, value) with rising steps: linear between two points,
the first value before the first of them, the last value after the last. Outer steps count from 0."""

MAX_POINTS = 64


def value_at(ramp: Ramp, count: int) -> float:
    """The value at outer step number ``count``."""
    if not isinstance(ramp, tuple):
        return ramp
    if count <= ramp[0][0]:
        return ramp[0][1]
    for (step, value), (next_step, next_value) in pairwise(ramp):
        if count <= next_step:
            return value + (next_value - value) * (count - step) / (next_step - step)
    return ramp[-1][1]


def values(ramp: Ramp) -> tuple[float, ...]:
    """The values between which it moves."""
    return tuple(value for _, value in ramp) if isinstance(ramp, tuple) else (ramp,)


def ramp_within(low: float, high: float, *, low_is_in: bool, high_is_in: bool) -> PlainValidator:
    """The check of a field that holds a ramp whose values lie between ``low`` and ``high``."""

    def number(given: Any) -> float:
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            raise PydanticCustomError(
                "ramp", "Input should be a number, or points such as [[0, 0.1], [20, 0.7]]"
            )
        try:
            value = float(given)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "Input should be a finite number")
        if not (low <= value if low_is_in else low < value):
            kind = "or equal to " if low_is_in else ""
            raise PydanticCustomError("greater_than", f"Input should be greater than {kind}{low:g}")
        if not (value <= high if high_is_in else value < high):
            kind = "or equal to " if high_is_in else ""
            raise PydanticCustomError("less_than", f"Input should be less than {kind}{high:g}")
        return value

    def check(value: Any) -> Ramp:
        if not isinstance(value, (list, tuple)):
            return number(value)
        if not 1 <= len(value) <= MAX_POINTS or any(
            not isinstance(point, (list, tuple)) or len(point) != 2 for point in value
        ):
            raise PydanticCustomError(
                "ramp",
                f"Input should have 1 to {MAX_POINTS} points, each [outer step, value]",
            )
        steps = [step for step, _ in value]
        if any(type(step) is not int or not 0 <= step <= 10**9 for step in steps) or any(
            later <= step for step, later in pairwise(steps)
        ):
            raise PydanticCustomError(
                "ramp", "Outer steps of points should be whole numbers that rise, from 0 on"
            )
        return tuple((step, number(each)) for step, each in value)

    return PlainValidator(check)
