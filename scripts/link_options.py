"""What an emulated link is like, and how a command line says so: "100Mbps", "50ms", "1.25MB".

Owns the units and the options that every script with an emulated link shares; the link itself is in
emulate_link.py.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

Address = tuple[str, int]

RATES = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9}
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
SIZES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "KiB": 1024.0, "MiB": 1024.0**2}


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A link, the same in both directions."""

    rate_bps: float
    """Bits per second in each direction."""
    rtt_s: float
    queue_bytes: int
    """Bytes that may wait to leave, per direction."""


def _quantity(text: str, units: dict[str, float]) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text)
    if match is None or match[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number with one of the units {', '.join(units)}")
    return float(match[1]) * units[match[2]]


def rate_bps(text: str) -> float:
    """Bits per second, above zero."""
    rate = _quantity(text, RATES)
    if rate <= 0:
        raise argparse.ArgumentTypeError("a rate must be above zero")
    return rate


def seconds(text: str) -> float:
    """Seconds."""
    return _quantity(text, TIMES)


def size_bytes(text: str) -> int:
    """Bytes."""
    return int(_quantity(text, SIZES))


def address(text: str) -> Address:
    """HOST:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def pair(text: str) -> tuple[Address, Address]:
    """LISTEN=TARGET, each HOST:PORT."""
    listen, equals, target = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT=HOST:PORT")
    return address(listen), address(target)


def add_link_arguments(parser: argparse.ArgumentParser, rate: str | None = "100Mbps") -> None:
    """The three options that describe a link; `spec_from` reads them."""
    parser.add_argument("--rate", type=rate_bps, default=rate, help="per direction, for example 100Mbps")
    parser.add_argument("--rtt", type=seconds, default="50ms", help="round-trip time")
    parser.add_argument("--queue", type=size_bytes, default="1.25MB", help="bottleneck queue per direction")


def spec_from(arguments: argparse.Namespace) -> LinkSpec:
    """The link that the options describe."""
    return LinkSpec(arguments.rate, arguments.rtt, arguments.queue)
