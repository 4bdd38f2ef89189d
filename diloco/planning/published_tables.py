"""Tables of papers, and our reproduction of them by the model that `diloco plan` uses.

Streaming DiLoCo (arXiv 2501.18512, table 4), Scaling Laws for DiLoCo (arXiv 2503.09799, table 6) and
INTELLECT-1 (arXiv 2412.01152, table 2): numbers are theirs, the arithmetic is ours. The first two say at
which bandwidth a worker reaches a compute utilization, for a model of 10B parameters and 48 layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diloco.planning.timeline import Load, steady

TARGETS = (0.50, 0.80, 0.90, 0.95, 0.99)
PARAMETERS, LAYERS, STEP_S = 10e9, 48, 0.8
STEP_FACTORS = {"streaming": 1.2, "scaling-laws": 1.5}
"""The tables fit steps that are longer than printed by this. Why is not published: 1.2 is as if they were
printed at 60 % MFU and simulated at 50 %, 1.5 as if at 40 %."""
GRID = [10 ** (-1 + 4 * i / 49) for i in range(50)]
"""Gbit/s: every printed number is one of these, rounded to two digits and then to one."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One method of a table."""

    name: str
    sync_every: int
    fragments: int = 1
    delay: int = 0
    bits: int = 16
    printed: tuple[float, ...] = ()
    """Gbit/s for each of `TARGETS`, as published."""


STREAMING = (
    PublishedRow("data-parallel", 1, printed=(104.8, 222.3, 222.3, 268.3, 471.5)),
    PublishedRow("diloco, H 100", 100, printed=(1.7, 7.5, 16.0, 33.9, 104.8)),
    PublishedRow("streaming, 16 fragments", 100, 16, printed=(1.7, 5.2, 9.1, 13.3, 19.3)),
    PublishedRow("and overlap", 100, 16, 1, printed=(1.7, 3.6, 5.2, 6.2, 7.5)),
    PublishedRow("and FP4", 100, 16, 1, 4, printed=(0.4, 0.9, 1.4, 1.4, 1.7)),
)
SCALING_LAWS = (
    PublishedRow("data-parallel", 1, printed=(104.8, 184.2, 222.3, 222.3, 390.7)),
    PublishedRow("diloco, H 10", 10, printed=(16.0, 49.4, 86.8, 152.6, 222.3)),
    PublishedRow("diloco, H 50", 50, printed=(3.0, 11.0, 23.3, 41.0, 126.5)),
    PublishedRow("diloco, H 100", 100, printed=(1.4, 6.2, 13.3, 23.3, 86.8)),
    PublishedRow("diloco, H 300", 300, printed=(0.5, 2.0, 4.3, 9.1, 41.0)),
)
TABLES = {"streaming": STREAMING, "scaling-laws": SCALING_LAWS}

INTELLECT_1 = (("USA", 103.0, 95.7), ("USA and Europe", 382.0, 85.6), ("global", 469.0, 83.0))
"""Where, seconds of an all-reduce, utilization in per cent as published."""
INTELLECT_1_INNER_S = 38 * 60.0


def load_of(row: PublishedRow, gbits: float, step_factor: float) -> Load:
    """A row on a line of so many Gbit/s. Fragments are strided, at offsets (p + 1) H / (P + 1)."""
    wire_s = row.bits * PARAMETERS / LAYERS / (gbits * 1e9)
    offsets = [(p + 1) * row.sync_every // (row.fragments + 1) for p in range(row.fragments)]
    layers = [[layer for layer in range(LAYERS) if layer % row.fragments == p] for p in range(row.fragments)]
    by_step: dict[int, list[int]] = {}
    for offset, some in zip(offsets, layers, strict=True):
        by_step.setdefault(offset or row.sync_every, []).extend(some)
    nothing: list[int] = []

    def due(step: int) -> Sequence[int]:
        return by_step.get(step, nothing)

    return Load(step_factor * STEP_S, row.sync_every, due, [wire_s] * LAYERS, delay=row.delay, layered=True)


def needed(utilization: Callable[[float], float]) -> list[int | None]:
    """For each target the first point of the grid that reaches it, by its position. Utilization grows with
    the bandwidth."""
    found: list[int | None] = []
    start = 0
    for target in TARGETS:
        low, high = start, len(GRID)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if utilization(GRID[middle]) >= target else (middle + 1, high)
        found.append(low if low < len(GRID) else None)
        start = low if low < len(GRID) else 0
    return found


def reproduced(table: str, row: PublishedRow) -> list[int | None]:
    """Our entries of a row, as positions in the grid."""
    factor = STEP_FACTORS[table]
    return needed(lambda gbits: steady(load_of(row, gbits, factor)).utilization)


def as_printed(position: int) -> float:
    """A point of the grid as the papers round it."""
    return round(round(GRID[position], 2), 1)


def notches(table: str, row: PublishedRow) -> list[int]:
    """How many points of the grid each of our entries is above the published one."""
    printed = [as_printed(i) for i in range(len(GRID))]
    ours = [len(GRID) if position is None else position for position in reproduced(table, row)]
    return [position - printed.index(value) for position, value in zip(ours, row.printed, strict=True)]


def intellect_1() -> list[tuple[str, float, float]]:
    """Where, our utilization and the published one, both in per cent."""
    found = []
    for where, all_reduce_s, printed in INTELLECT_1:
        load = Load(INTELLECT_1_INNER_S / 100, 100, lambda step: [0] if step == 100 else [], [all_reduce_s])
        found.append((where, 100 * steady(load).utilization, printed))
    return found
