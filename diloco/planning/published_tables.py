"""Tables of papers, and our reproduction of them by the model that `diloco plan` uses.

Streaming DiLoCo (arXiv 2501.18512, table 4), Scaling Laws for DiLoCo (arXiv 2503.09799, table 6) and
INTELLECT-1 (arXiv 2412.01152, table 2): numbers are theirs, the arithmetic is ours. The first two say at
which bandwidth a worker reaches a compute utilization. One rule holds for all of a table: the same model, and
one factor on the printed seconds of a step. Nothing is fitted to a size, a row or a column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from diloco.planning.timeline import Load, steady

TARGETS = (0.50, 0.80, 0.90, 0.95, 0.99)
GRID = [10 ** (-1 + 4 * i / 49) for i in range(50)]
"""Gbit/s: every printed number is one of these, rounded to two digits and then to one."""
ABOVE = 1001.0
"""Stands in the papers for a utilization that no point of the grid reaches."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One method at one size."""

    name: str
    sync_every: int
    fragments: int = 1
    delay: int = 0
    bits: int = 16
    printed: tuple[float, ...] = ()
    """Gbit/s for each of `TARGETS`, as published."""


@dataclass(frozen=True, slots=True)
class PublishedSize:
    """One size of model."""

    name: str
    parameters: float
    layers: int
    step_s: float
    """As printed."""
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One paper's table."""

    title: str
    step_factor: float
    """How many times as long as printed every step is: of all hundredths the one with which most entries are
    equal. Why it is not 1 is not published; 1.2 is as if steps were printed at 60 % of peak and simulated at
    50 %."""
    sizes: tuple[PublishedSize, ...]


def _streaming(fragments: int, *printed: tuple[float, ...]) -> tuple[PublishedRow, ...]:
    plain, diloco, parts, overlap, fp4 = printed
    return (
        PublishedRow("data-parallel", 1, printed=plain),
        PublishedRow("diloco, H 100", 100, printed=diloco),
        PublishedRow(f"streaming, {fragments} fragments", 100, fragments, printed=parts),
        PublishedRow("and overlap", 100, fragments, 1, printed=overlap),
        PublishedRow("and FP4", 100, fragments, 1, 4, printed=fp4),
    )


def _scaling(*printed: tuple[float, ...]) -> tuple[PublishedRow, ...]:
    names = ["data-parallel", *(f"diloco, H {sync_every}" for sync_every in (10, 50, 100, 300))]
    each = zip(names, (1, 10, 50, 100, 300), printed, strict=True)
    return tuple(PublishedRow(name, sync_every, printed=row) for name, sync_every, row in each)


STREAMING = PublishedTable(
    "Streaming DiLoCo, arXiv 2501.18512",
    1.19,
    (
        PublishedSize(
            "1B",
            1e9,
            24,
            0.1,
            _streaming(
                8,
                (86.8, 152.6, 184.2, 222.3, 569.0),
                (1.4, 6.2, 13.3, 23.3, 86.8),
                (1.4, 5.2, 9.1, 16.0, 28.1),
                (1.4, 4.3, 6.2, 9.1, 11.0),
                (0.4, 0.9, 1.7, 2.0, 3.0),
            ),
        ),
        PublishedSize(
            "10B",
            10e9,
            48,
            0.8,
            _streaming(
                16,
                (104.8, 222.3, 222.3, 268.3, 471.5),
                (1.7, 7.5, 16.0, 33.9, 104.8),
                (1.7, 5.2, 9.1, 13.3, 19.3),
                (1.7, 3.6, 5.2, 6.2, 7.5),
                (0.4, 0.9, 1.4, 1.4, 1.7),
            ),
        ),
        PublishedSize(
            "100B",
            100e9,
            108,
            4.9,
            _streaming(
                36,
                (184.2, 323.8, 390.7, 390.7, 471.5),
                (3.0, 11.0, 23.3, 49.4, 184.2),
                (2.4, 6.2, 9.1, 11.0, 19.3),
                (1.7, 3.6, 4.3, 5.2, 5.2),
                (0.5, 0.9, 1.1, 1.1, 1.4),
            ),
        ),
    ),
)
SCALING_LAWS = PublishedTable(
    "Scaling Laws for DiLoCo, arXiv 2503.09799",
    1.34,
    (
        PublishedSize(
            "10B",
            10e9,
            48,
            0.8,
            _scaling(
                (104.8, 184.2, 222.3, 222.3, 390.7),
                (16.0, 49.4, 86.8, 152.6, 222.3),
                (3.0, 11.0, 23.3, 41.0, 126.5),
                (1.4, 6.2, 13.3, 23.3, 86.8),
                (0.5, 2.0, 4.3, 9.1, 41.0),
            ),
        ),
        PublishedSize(
            "405B",
            405e9,
            126,
            26.0,
            _scaling(
                (126.5, 222.3, 268.3, 323.8, 323.8),
                (19.3, 72.0, 126.5, 184.2, 268.3),
                (3.6, 13.3, 28.1, 59.6, 184.2),
                (2.0, 7.5, 16.0, 33.9, 126.5),
                (0.7, 3.0, 6.2, 13.3, 59.6),
            ),
        ),
        PublishedSize(
            "671B",
            671e9,
            61,
            20.0,
            _scaling(
                (323.8, 569.0, 686.6, 686.6, ABOVE),
                (49.4, 152.6, 268.3, 390.7, 686.6),
                (7.5, 33.9, 72.0, 126.5, 390.7),
                (4.3, 16.0, 41.0, 72.0, 268.3),
                (1.7, 6.2, 13.3, 28.1, 126.5),
            ),
        ),
    ),
)
TABLES = {"streaming": STREAMING, "scaling-laws": SCALING_LAWS}

INTELLECT_1 = (("USA", 103.0, 95.7), ("USA and Europe", 382.0, 85.6), ("global", 469.0, 83.0))
"""Where, seconds of an all-reduce, utilization in per cent as published."""
INTELLECT_1_INNER_S = 38 * 60.0


def load_of(size: PublishedSize, row: PublishedRow, gbits: float, step_factor: float) -> Load:
    """A row on a line of so many Gbit/s. Fragments are strided, at offsets (p + 1) H / (P + 1)."""
    wire_s = row.bits * size.parameters / size.layers / (gbits * 1e9)
    by_step: dict[int, list[int]] = {}
    for p in range(row.fragments):
        offset = (p + 1) * row.sync_every // (row.fragments + 1) or row.sync_every
        by_step.setdefault(offset, []).extend(range(p, size.layers, row.fragments))
    nothing: list[int] = []

    def due(step: int) -> Sequence[int]:
        return by_step.get(step, nothing)

    wires = [wire_s] * size.layers
    return Load(step_factor * size.step_s, row.sync_every, due, wires, delay=row.delay, layered=True)


def needed(utilization: Callable[[float], float]) -> list[int]:
    """For each target the first point of the grid that reaches it, by its position; the grid's length if none
    does. Utilization grows with the bandwidth."""
    found: list[int] = []
    low = 0
    for target in TARGETS:
        high = len(GRID)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if utilization(GRID[middle]) >= target else (middle + 1, high)
        found.append(low)
    return found


def reproduced(size: PublishedSize, row: PublishedRow, step_factor: float) -> list[int]:
    """Our entries of a row, as positions in the grid."""
    return needed(cache(lambda gbits: steady(load_of(size, row, gbits, step_factor)).utilization))


def as_printed(position: int) -> float:
    """A point of the grid as the papers round it, or what stands for none."""
    return round(round(GRID[position], 2), 1) if position < len(GRID) else ABOVE


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a table."""

    ours: float
    """Gbit/s."""
    published: float
    notches: int
    """How many points of the grid ours is above the published one."""


def entries(size: PublishedSize, row: PublishedRow, step_factor: float) -> list[Entry]:
    """Our entries of a row beside the published ones."""
    found = reproduced(size, row, step_factor)
    return [
        Entry(as_printed(ours), published, _notches(ours, published))
        for ours, published in zip(found, row.printed, strict=True)
    ]


def _notches(ours: int, published: float) -> int:
    # Below 1 Gbit/s two points may be printed alike: then the nearer one is meant.
    alike = [at for at in range(len(GRID) + 1) if as_printed(at) == published]
    return min((ours - at for at in alike), key=abs)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many entries are equal, and how many at most one point of the grid off."""

    exact: int
    within_a_notch: int
    total: int

    @classmethod
    def of(cls, found: Sequence[Entry]) -> Agreement:
        off = [abs(entry.notches) for entry in found]
        return cls(off.count(0), off.count(0) + off.count(1), len(off))


def intellect_1() -> list[tuple[str, float, float]]:
    """Where, our utilization and the published one, both in per cent."""
    found = []
    for where, all_reduce_s, printed in INTELLECT_1:
        load = Load(INTELLECT_1_INNER_S / 100, 100, lambda step: [0] if step == 100 else [], [all_reduce_s])
        found.append((where, 100 * steady(load).utilization, printed))
    return found
