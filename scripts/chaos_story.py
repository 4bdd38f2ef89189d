"""What is known of a run under chaos, and what the oracle (chaos_oracle.py) says of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peers.protocol.record import Record

Line = Mapping[str, Any]
"""What a worker told: its ``event``, when (``at``), its ``key`` and ``life``, and the fields of the event."""
KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process took at a moment."""

    name: str
    life: int
    at: float
    cpu_s: float
    """Seconds of a processor since it began."""
    mib: float
    threads: int
    descriptors: int
    eventfds: int = 0
    """Of the descriptors: libzmq makes six for each peer that is dialled, and none for one that dials."""


@dataclass(frozen=True, slots=True)
class LostDisk:
    """A disk that lacks what was committed between two moments: since it was made where it is gone, and since
    it was full."""

    key: str
    since: float
    until: float


@dataclass(slots=True)
class Story:
    """All that is known of a run."""

    columns: int
    records: Sequence[Record]
    lines: Sequence[Line]
    samples: Sequence[Sample] = ()
    bounds: Mapping[str, float] = field(default_factory=dict)
    """By what is measured, most that a process may take of it."""
    column_of: dict[str, int] = field(default_factory=dict)
    """By the first digits of a worker's key."""
    lost_disks: Sequence[LostDisk] = ()
    rests: Sequence[tuple[float, float]] = ()
    """Two times, from and to, in which everyone was there and nothing wrong: before all faults, and after."""


@dataclass(slots=True)
class Verdict:
    """What is broken, each as one line, and how much was looked at."""

    broken: list[str] = field(default_factory=list)
    rounds: int = 0
    restored: int = 0
    means: int = 0
    """Records whose mean was recomputed."""
    unheard: int = 0
    """The last records, after which nobody told of a state."""
    fates: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    most: dict[str, float] = field(default_factory=dict)
    """By what is measured, most that a process took of it."""
