"""What goes to a terminal moves no cursor and is not cut where nobody sees it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from diloco.terminal import plain_table, printable, wide_console


@given(st.text())
def test_any_text_becomes_printable_of_the_same_length(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert [a for a, b in zip(text, shown, strict=True) if a != b] == [c for c in text if not c.isprintable()]


def test_ordinary_text_of_any_language_stays() -> None:
    assert printable("Zoë läuft, 走る [bold]") == "Zoë läuft, 走る [bold]"


def test_a_pipe_gets_room_for_every_column_and_told_widths_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "80")
    assert wide_console().width > 100
    monkeypatch.setenv("COLUMNS", "60")
    assert wide_console().width == 60


def test_a_table_of_eight_numbers_fits_80_columns() -> None:
    table = plain_table("rounds")
    for index in range(8):
        table.add_column(f"col {index}", no_wrap=True)
    table.add_row(*["1234567"] * 8)
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert console.file.getvalue().count("1234567") == 8  # type: ignore[attr-defined]
