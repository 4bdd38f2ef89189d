"""Where a peer can be dialled: the one place that says what an address looks like.

An address comes from a command line, a ticket, a member or the roster: it is ``tcp://host:port``, where the
host is a name or an IPv4 address, of at most 64 bytes, and nothing that means "any". Pure: names are resolved
elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

ADDRESS_BYTES = 64
_ADDRESS = re.compile(r"tcp://([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?):([1-9][0-9]{0,4})", re.ASCII)
_NUMBER = re.compile(r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])", re.ASCII)


def parts(address: str) -> tuple[str, int] | None:
    """Host and port of an address that can be dialled; None for anything else."""
    match = _ADDRESS.fullmatch(address)
    if match is None or len(address) > ADDRESS_BYTES or int(match[2]) > 65535:
        return None
    return None if match[1] == "0.0.0.0" else (match[1], int(match[2]))


Near = Literal["machine", "network", "carrier"]
_NEAR: dict[Near, tuple[str, ...]] = {
    "machine": ("127.0.0.0/8",),
    "network": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    "carrier": ("100.64.0.0/10",),
}


def reach(address: str) -> Near | None:
    """From where alone an address can be dialled: its own machine, its network, or that of a provider or a
    mesh VPN; None if perhaps from everywhere, as a name."""
    found = parts(address)
    if found is None or not is_numeric(found[0]):
        return "machine" if found and found[0] == "localhost" else None
    number = ipaddress.IPv4Address(found[0])
    for where, networks in _NEAR.items():
        if any(number in ipaddress.IPv4Network(each) for each in networks):
            return where
    return None


def with_scheme(address: str) -> str:
    """``host:port`` as an address; what names a scheme is left as it is."""
    return address if "://" in address else f"tcp://{address}"


def valid_address(address: str) -> bool:
    """Whether others can dial it."""
    return parts(address) is not None


def is_numeric(host: str) -> bool:
    """Whether a host is an IPv4 address: four numbers up to 255."""
    numbers = host.split(".")
    return len(numbers) == 4 and all(_NUMBER.fullmatch(each) for each in numbers)
