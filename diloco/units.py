"""Quantities as people type them: rates, durations, sizes, counts, prices; and back.

Bits and bytes are told apart (Mbps and Mbit/s, MB/s and MiB/s); prefixes of rates and sizes are decimal
unless they have an i. Pure functions; nonsense is refused in one line.
"""

from __future__ import annotations

import math
import re

from diloco.errors import UserError

_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
_BINARY = {f"{prefix}i": 1024.0**power for power, prefix in enumerate("kmgtp", 1)}
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15}
_NUMBER = re.compile(
    r"\s*([0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(.*?)\s*"
)
_RATE_UNITS = re.compile(r"([kmgtp]i?)?(bps|bit/s|bits/s|b/s|byte/s|bytes/s)")
_SIZE_UNITS = re.compile(r"([kmgtp]i?)?(b|byte|bytes)")


def parse_rate(text: str) -> float:
    """Bits per second: 500Mbps, 1 Gbit/s, 10MB/s, 3MiB/s. Raises `UserError`."""
    value, unit = _split(text, "a rate like 500Mbps, 1Gbit/s or 10MB/s")
    found = _RATE_UNITS.fullmatch(unit.lower())
    if found is None:
        raise UserError(f"{text!r} is not a rate: write it like 500Mbps, 1Gbit/s or 10MB/s")
    is_bytes = unit.endswith(("B/s", "Bps")) or "yte" in unit
    return value * _prefix(found[1]) * (8 if is_bytes else 1)


def parse_seconds(text: str) -> float:
    """Seconds: 60ms, 0.8s, 5min, 2h, 3d. Raises `UserError`."""
    value, unit = _split(text, "a time like 60ms, 0.8s, 5min or 2h")
    if unit.lower() not in _SECONDS:
        raise UserError(f"{text!r} is not a time: write it like 60ms, 0.8s, 5min or 2h")
    return value * _SECONDS[unit.lower()]


def parse_bytes(text: str) -> float:
    """Bytes: 80GB, 24GiB. Raises `UserError`."""
    value, unit = _split(text, "a size like 80GB or 24GiB")
    found = _SIZE_UNITS.fullmatch(unit.lower())
    if found is None or re.fullmatch(r"[A-Z]i?b", unit):  # Gb are bits
        raise UserError(f"{text!r} is not a size: write it like 80GB or 24GiB")
    return value * _prefix(found[1])


def parse_count(text: str) -> float:
    """A number: 10B, 1.5e9, 200M, 16k. Raises `UserError`."""
    value, unit = _split(text, "a number like 10B, 1.5e9 or 200M")
    if unit.lower() not in _COUNTS:
        raise UserError(f"{text!r} is not a number: write it like 10B, 1.5e9 or 200M")
    return value * _COUNTS[unit.lower()]


def parse_price(text: str) -> float:
    """Money per hour, in whatever currency: 2.5/h, $60/d. Raises `UserError`."""
    wanted = "a price like 2.5/h or $60/d"
    value, unit = _split(text.strip().lstrip("$€£"), wanted, text)
    if not unit.startswith("/") or unit[1:].strip().lower() not in _SECONDS:
        raise UserError(f"{text!r} is not a price: write it like 2.5/h or $60/d")
    return value * _SECONDS["h"] / _SECONDS[unit[1:].strip().lower()]


def show_rate(bits_per_second: float) -> str:
    """500 Mbit/s."""
    return _scaled(bits_per_second, "bit/s")


def show_bytes(size_bytes: float) -> str:
    """3.2 GB, in decimal prefixes."""
    return _scaled(size_bytes, "B")


def show_seconds(seconds: float) -> str:
    """60 ms, 0.8 s, 5 min, 2.5 h, 3 d: whichever unit leaves one to three digits."""
    if 0.9995 <= seconds < 120.0 or seconds == 0.0:
        return f"{_digits(seconds)} s"
    if seconds < 1e-3:
        return f"{_digits(seconds * 1e6)} us"
    if seconds < 1.0:
        return f"{_digits(seconds * 1e3)} ms"
    for unit, until in (("min", 7200.0), ("h", 2 * 86_400.0), ("d", math.inf)):
        if seconds < until:
            return f"{_digits(seconds / _SECONDS[unit])} {unit}"
    return "never"


def _scaled(value: float, unit: str) -> str:
    for letter in ("P", "T", "G", "M", "k"):
        if value >= 0.9995 * _DECIMAL[letter.lower()]:
            return f"{_digits(value / _DECIMAL[letter.lower()])} {letter}{unit}"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 or value == 0.0 else f"{value:.3g}"


def _split(text: str, wanted: str, shown: str | None = None) -> tuple[float, str]:
    found = _NUMBER.fullmatch(text)
    value = float(found[1]) if found else math.nan
    if found is None or not math.isfinite(value):
        raise UserError(f"{(shown or text)!r} is not {wanted}")
    return value, found[2]


def _prefix(prefix: str | None) -> float:
    return {**_DECIMAL, **_BINARY}[prefix or ""]


def duration_text(seconds: float) -> str:
    """For people: ``8 s``, ``12 min``, ``1 h 02 min``, ``3 d 04 h``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"
