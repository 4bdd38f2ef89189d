"""Quantities are read as people type them, shown short, and nonsense is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.errors import UserError
from diloco.units import (
    duration_text,
    parse_bytes,
    parse_count,
    parse_price,
    parse_rate,
    parse_seconds,
    show_bytes,
    show_rate,
    show_seconds,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_rate, "500Mbps", 5e8),
        (parse_rate, "1 Gbit/s", 1e9),
        (parse_rate, "10MB/s", 8e7),
        (parse_rate, "10MBps", 8e7),
        (parse_seconds, "60ms", 0.06),
        (parse_seconds, "2h", 7200.0),
        (parse_bytes, "24GiB", 24 * 2**30),
        (parse_count, "10B", 1e10),
        (parse_count, "1.5e9", 1.5e9),
        (parse_price, "2.5/h", 2.5),
        (parse_price, "$60/d", 2.5),
    ],
)
def test_quantities_are_read_as_people_type_them(parse: Any, text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize("parse", [parse_rate, parse_seconds, parse_bytes, parse_count, parse_price])
@pytest.mark.parametrize("text", ["", "fast", "-3s", "10 parsecs", "1e999", "nan", "3 3"])
def test_nonsense_is_refused_in_a_line(parse: Any, text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_rates_read_back_what_they_show() -> None:
    for bps in (5e8, 1.5e9, 2.5e5):
        assert parse_rate(show_rate(bps).replace(" ", "")) == pytest.approx(bps)


@pytest.mark.parametrize("text", ["80Gb", "80 Gib", "80Gbit", "80Gbps"])
def test_bits_are_no_size(text: str) -> None:
    with pytest.raises(UserError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (5e-5, "50 us"),
        (0.06, "60 ms"),
        (0.9996, "1 s"),
        (119.0, "119 s"),
        (300.0, "5 min"),
        (9000.0, "2.5 h"),
        (3 * 86_400.0, "3 d"),
        (float("inf"), "never"),
    ],
)
def test_times_are_shown_in_the_unit_that_leaves_few_digits(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (999_600, "1 MB"), (3.21e9, "3.21 GB"), (5e18, "5,000 PB")]
)
def test_sizes_are_shown_in_decimal_prefixes(size: float, text: str) -> None:
    assert show_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (3569, "59 min"),
        (3575, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (47 * 3600 + 59 * 60, "47 h 59 min"),
        (3.2 * 86_400, "3 d 05 h"),
    ],
)
def test_a_duration_is_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
