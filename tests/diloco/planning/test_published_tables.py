"""The papers' tables come out of the model that `diloco plan` uses."""

from __future__ import annotations

import pytest

from diloco.planning import published_tables


def test_the_table_of_streaming_diloco_comes_out_but_for_two_entries_one_notch_off() -> None:
    off = [n for row in published_tables.STREAMING for n in published_tables.notches("streaming", row)]
    assert len(off) == 25
    assert sorted(map(abs, off)) == [0] * 23 + [1] * 2


def test_the_table_of_scaling_laws_comes_out_but_for_six_entries_one_notch_off() -> None:
    off = [n for row in published_tables.SCALING_LAWS for n in published_tables.notches("scaling-laws", row)]
    assert len(off) == 25
    assert sorted(map(abs, off)) == [0] * 19 + [1] * 6


def test_every_published_number_is_on_the_grid() -> None:
    printed = {published_tables.as_printed(i) for i in range(len(published_tables.GRID))}
    assert all(set(row.printed) <= printed for table in published_tables.TABLES.values() for row in table)


def test_intellect_1_comes_out_within_half_a_point() -> None:
    for _, ours, theirs in published_tables.intellect_1():
        assert ours == pytest.approx(theirs, abs=0.5)
