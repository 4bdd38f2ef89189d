"""What goes wrong in a run under chaos, and when: drawn from a seed beforehand.

The seed fixes what is tried, not what comes of it: real processes take their own time. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SECONDS = {
    "kill": (0.0, 6.0),
    "replace": (0.0, 6.0),
    "leave": (1.0, 8.0),
    "stop": (0.2, 9.0),
    "cut": (0.2, 9.0),
    "stall": (0.2, 6.0),
    "reset": (0.0, 0.0),
    "throttle": (2.0, 12.0),
    "full": (2.0, 10.0),
    "host kill": (0.0, 5.0),
    "host stop": (0.2, 6.0),
    "host cut": (0.2, 6.0),
    "host full": (0.5, 5.0),
    "all die": (0.5, 6.0),
}
"""By kind how long it lasts: until the process is started or goes on, the line is whole again. ``replace`` is
a death after which a new identity comes, as where a disk is lost; who is to ``leave`` gets SIGTERM; the disk
that is ``full`` takes files of a few bytes only; when ``all die`` the host is back after that time, and
workers in any order around it, one of them later; a ``cut`` resets connections and refuses new ones, in a
``stall`` nothing moves and nobody is told, a ``reset`` breaks what is open."""
KINDS = tuple(SECONDS)
_WEIGHTS = {"kill": 4, "stop": 3, "all die": 0.75}
"""The others are drawn half as often as a stop; deaths of the host too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """When, what, whom (a worker's column; of no meaning for the host), and for how long."""

    at_s: float
    kind: str
    who: int
    seconds: float


def draw(
    seed: int, peers: int, until_s: float, mean_s: float, kinds: Sequence[str] = KINDS
) -> Iterator[Fault]:
    """Faults of these kinds in the order of time, one in ``mean_s`` seconds on average."""
    rng = random.Random(seed)
    weights = [_WEIGHTS.get(kind, 1.5) for kind in kinds]
    at = rng.expovariate(1.0 / mean_s)
    while at < until_s:
        kind = rng.choices(kinds, weights)[0]
        yield Fault(at, kind, rng.randrange(peers), rng.uniform(*SECONDS[kind]))
        at += rng.expovariate(1.0 / mean_s)
