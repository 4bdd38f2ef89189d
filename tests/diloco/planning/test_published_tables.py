"""The papers' tables come out of the model that `diloco plan` uses, by one rule for all sizes of a table."""

from __future__ import annotations

import math

import pytest

from diloco.planning import published_tables
from diloco.planning.published_tables import TABLES, Agreement, Entry, PublishedSize, entries

# As published, typed once more: rows from above, 50 / 80 / 90 / 95 / 99 %; 1001 is above 1000.
PUBLISHED = {
    ("streaming", "1B"): """
        86.8 152.6 184.2 222.3 569.0   1.4 6.2 13.3 23.3 86.8   1.4 5.2 9.1 16.0 28.1
        1.4 4.3 6.2 9.1 11.0   0.4 0.9 1.7 2.0 3.0""",
    ("streaming", "10B"): """
        104.8 222.3 222.3 268.3 471.5   1.7 7.5 16.0 33.9 104.8   1.7 5.2 9.1 13.3 19.3
        1.7 3.6 5.2 6.2 7.5   0.4 0.9 1.4 1.4 1.7""",
    ("streaming", "100B"): """
        184.2 323.8 390.7 390.7 471.5   3.0 11.0 23.3 49.4 184.2   2.4 6.2 9.1 11.0 19.3
        1.7 3.6 4.3 5.2 5.2   0.5 0.9 1.1 1.1 1.4""",
    ("scaling-laws", "10B"): """
        104.8 184.2 222.3 222.3 390.7   16.0 49.4 86.8 152.6 222.3   3.0 11.0 23.3 41.0 126.5
        1.4 6.2 13.3 23.3 86.8   .5 2.0 4.3 9.1 41.0""",
    ("scaling-laws", "405B"): """
        126.5 222.3 268.3 323.8 323.8   19.3 72.0 126.5 184.2 268.3   3.6 13.3 28.1 59.6 184.2
        2.0 7.5 16.0 33.9 126.5   .7 3.0 6.2 13.3 59.6""",
    ("scaling-laws", "671B"): """
        323.8 569.0 686.6 686.6 1001   49.4 152.6 268.3 390.7 686.6   7.5 33.9 72.0 126.5 390.7
        4.3 16.0 41.0 72.0 268.3   1.7 6.2 13.3 28.1 126.5""",
}
EXACT = {
    ("streaming", "1B"): 23,
    ("streaming", "10B"): 23,
    ("streaming", "100B"): 22,
    ("scaling-laws", "10B"): 17,
    ("scaling-laws", "405B"): 20,
    ("scaling-laws", "671B"): 16,
}
SIZES = {(table, size.name): size for table in TABLES for size in TABLES[table].sizes}


def found(table: str, size: PublishedSize) -> list[Entry]:
    return [entry for row in size.rows for entry in entries(size, row, TABLES[table].step_factor)]


def points_apart(one: float, two: float) -> float:
    """On the papers' grid, 50 points from 0.1 to 1000."""
    return abs(49 / 4 * math.log10(one / two))


@pytest.mark.parametrize(("table", "size"), PUBLISHED)
def test_each_size_comes_out_but_for_entries_one_notch_off(table: str, size: str) -> None:
    published = [float(number) for number in PUBLISHED[table, size].split()]
    ours = found(table, SIZES[table, size])
    assert [entry.published for entry in ours] == published
    equal = [entry.ours == each for entry, each in zip(ours, published, strict=True)]
    assert sum(equal) == EXACT[table, size]
    assert [entry.notches == 0 for entry in ours] == equal
    for entry, each in zip(ours, published, strict=True):
        assert abs(entry.notches) <= 1
        # One decimal is coarser than the grid below 1 Gbit/s.
        assert points_apart(entry.ours, each) < 1.5 or abs(entry.ours - each) <= 0.1 + 1e-9


def test_one_rule_gives_68_of_75_and_53_of_75_and_the_rest_within_a_notch() -> None:
    totals = {
        name: Agreement.of([entry for size in TABLES[name].sizes for entry in found(name, size)])
        for name in TABLES
    }
    assert totals == {"streaming": Agreement(68, 75, 75), "scaling-laws": Agreement(53, 75, 75)}
    assert set(SIZES) == set(PUBLISHED)


@pytest.mark.parametrize("table", TABLES)
def test_no_other_hundredth_as_the_factor_makes_more_entries_exact(table: str) -> None:
    def exact(factor: float) -> int:
        each = [e for size in TABLES[table].sizes for row in size.rows for e in entries(size, row, factor)]
        return Agreement.of(each).exact

    chosen = TABLES[table].step_factor
    beside = [exact(chosen + hundredths / 100) for hundredths in (-3, -2, -1, 1, 2, 3)]
    assert max(beside) < exact(chosen)


def test_every_published_number_is_on_the_grid_or_above_it() -> None:
    printed = {published_tables.as_printed(i) for i in range(len(published_tables.GRID) + 1)}
    rows = [row for table in TABLES.values() for size in table.sizes for row in size.rows]
    assert all(set(row.printed) <= printed for row in rows)


def test_intellect_1_comes_out_within_half_a_point() -> None:
    for _, ours, theirs in published_tables.intellect_1():
        assert ours == pytest.approx(theirs, abs=0.5)
