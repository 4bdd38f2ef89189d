"""A forked child holds no socket of ours.

A `DataLoader` forks its workers from a process that has connections, and a child has copies of them: were its
parent killed, they would stand on, and peers would learn of the death after the failure timeout only. So a
child closes what is ours right after the fork. libzmq keeps its descriptors to itself; they are told by their
ends: who has the port on which we listen, or goes to an address that we dial, is ours. The parent's own
descriptors, and what libzmq has in memory, are left as they are. Keeps L2.

A child that a C library forks by itself is not seen here, one that runs another program needs nothing (all
descriptors are closed on exec), and a connection that comes up in the very moment of the fork may stay.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

_SYN_SENT = 2


@dataclass(frozen=True, slots=True)
class Ends:
    """How the connections of one owner are told: all of IPv4."""

    listens_at: tuple[str, int] | None
    dials: frozenset[tuple[str, int]]


class Owner(Protocol):
    """Who has connections."""

    def ends(self) -> Ends:
        """Those of all its connections; called in the child, where only the forking thread lives."""

    def forked(self) -> None:
        """This is a child: the owner is of no use here, and closes what it holds beside connections."""


_OWNERS: WeakSet[Owner] = WeakSet()


def close_in_children(owner: Owner) -> None:
    """From now on a child closes the connections of this owner."""
    _OWNERS.add(owner)


def keep_in_children(owner: Owner) -> None:
    """It has none any more."""
    _OWNERS.discard(owner)


def _in_child() -> None:
    owners = list(_OWNERS)
    _OWNERS.clear()
    ends = [owner.ends() for owner in owners]
    for descriptor in _descriptors() if owners else ():
        if any(_is_of(descriptor, each) for each in ends):
            with suppress(OSError):
                os.close(descriptor)
    for owner in owners:
        owner.forked()


os.register_at_fork(after_in_child=_in_child)


def _descriptors() -> Iterable[int]:
    return [int(name) for name in os.listdir("/dev/fd")]


def _is_of(descriptor: int, ends: Ends) -> bool:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:  # no socket, or closed already: it was the one that listed them
        return False
    try:
        if sock.family != socket.AF_INET or sock.type != socket.SOCK_STREAM:
            return False
        host, port = sock.getsockname()
        if ends.listens_at is not None and port == ends.listens_at[1]:
            return ends.listens_at[0] in (host, "0.0.0.0")
        return _goes_to(sock, ends.dials)
    except OSError:
        return False
    finally:
        sock.detach()


def _goes_to(sock: socket.socket, dials: frozenset[tuple[str, int]]) -> bool:
    try:
        return sock.getpeername() in dials
    except OSError:
        # An attempt under way tells nobody where it goes. A child has no use for any: who waits for it is a
        # thread of the parent.
        return bool(dials) and _is_connecting(sock)


def _is_connecting(sock: socket.socket) -> bool:
    if not hasattr(socket, "TCP_INFO"):
        return False
    state: int = struct.unpack_from("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8))[0]
    return state == _SYN_SENT
