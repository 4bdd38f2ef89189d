"""Where a peer can be dialled: the one place that says what an address looks like.

An address comes from a command line, a ticket, a member or the roster: it is ``tcp://host:port``, where the
host is a name or an IPv4 address, of at most 64 bytes, and nothing that means "any". Pure: names are resolved
elsewhere.
"""

from __future__ import annotations

import re

ADDRESS_BYTES = 64
_ADDRESS = re.compile(r"tcp://([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?):([1-9][0-9]{0,4})", re.ASCII)
_NUMBER = re.compile(r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])", re.ASCII)


def parts(address: str) -> tuple[str, int] | None:
    """Host and port of an address that can be dialled; None for anything else."""
    match = _ADDRESS.fullmatch(address)
    if match is None or len(address) > ADDRESS_BYTES or int(match[2]) > 65535:
        return None
    return None if match[1] == "0.0.0.0" else (match[1], int(match[2]))


def valid_address(address: str) -> bool:
    """Whether others can dial it."""
    return parts(address) is not None


def is_numeric(host: str) -> bool:
    """Whether a host is an IPv4 address: four numbers up to 255."""
    numbers = host.split(".")
    return len(numbers) == 4 and all(_NUMBER.fullmatch(each) for each in numbers)
