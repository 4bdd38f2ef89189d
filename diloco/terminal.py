"""What all tables and lines on a terminal share: width, look, and characters that are safe to print."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_PIPE_COLUMNS = 110


def wide_console() -> Console:
    """For tables: as wide as the terminal; in a file or a pipe, where rich would take 80 columns, wide enough
    for every column."""
    console = Console()
    return console if console.is_terminal or console.width != 80 else Console(width=_PIPE_COLUMNS)


def plain_table(title: str | None = None) -> Table:
    """Narrow, so that it fits 80 columns."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def printable(text: str) -> str:
    """``text`` without what would move a terminal's cursor or change its colours."""
    return "".join(each if each.isprintable() else "?" for each in text)
