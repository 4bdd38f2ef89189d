"""Rows of states that grow with what a peer says, and what fills them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

from transport.limits import LIMITS

SMALL = replace(
    LIMITS,
    window_bytes=64 * 1024,
    buffer_bytes=256 * 1024,
    spare_bytes=32 * 1024,
    early_bytes=16 * 1024,
    payload_bytes=1024,
    control_queue=50,
    identities=40,
    spare_links=10,
    gossip_members=30,
    roster_changes=20,
    served_states=4,
    barred=16,
    peers_told_of=16,
    half_open=16,
    half_open_per_address=8,
)
SIZE_AND_BOUND = tuple[int, int]


class Rows(dict[str, Callable[[], SIZE_AND_BOUND]]):
    """Functions by name, each of which fills a state, and returns how large it became and its bound."""

    def add(self, fill: Callable[[], SIZE_AND_BOUND]) -> Callable[[], SIZE_AND_BOUND]:
        """One more row: a decorator."""
        self[fill.__name__] = fill
        return fill


def keys() -> Iterator[bytes]:
    return (number.to_bytes(4, "big") * 8 for number in count(1))
