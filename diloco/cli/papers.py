"""`diloco plan --paper`: papers' tables beside what our model gives for them.

Owns how they are printed, for people and as JSON. The tables, the rule and the arithmetic are
`planning.published_tables`'.
"""

from __future__ import annotations

import json

from rich.table import Table

from diloco.cli.staged_papers import STAGED
from diloco.errors import UserError
from diloco.planning.published_tables import (
    GRID,
    TABLES,
    TARGETS,
    Agreement,
    Entry,
    PublishedRow,
    PublishedSize,
    PublishedTable,
    entries,
    intellect_1,
)
from diloco.terminal import plain_table, wide_console

Found = list[tuple[PublishedSize, list[tuple[PublishedRow, list[Entry]]]]]


def print_paper(name: str, as_json: bool) -> None:
    """One paper's table. Raises `UserError` for a name that is not known."""
    if name == "intellect-1":
        _print_intellect_1(as_json)
    elif name in STAGED:
        STAGED[name](as_json)
    elif name in TABLES:
        table = TABLES[name]
        found = [
            (size, [(row, entries(size, row, table.step_factor)) for row in size.rows])
            for size in table.sizes
        ]
        print(json.dumps(_plain(table, found))) if as_json else _print_table(table, found)
    else:
        names = ", ".join((*TABLES, "intellect-1", *STAGED))
        raise UserError(f"--paper {name} is not known: choose from {names}")


def by_target(title: str) -> Table:
    """A table of methods with a column for each utilization."""
    table = plain_table(title)
    table.add_column("method", no_wrap=True)
    for target in TARGETS:
        table.add_column(f"{target:.0%}", justify="right", no_wrap=True)
    return table


def _print_table(table: PublishedTable, found: Found) -> None:
    console = wide_console()
    print(f"{table.title}: Gbit/s for a utilization, ours (published, where it differs)")
    print(f"One rule for all of it: every step takes {table.step_factor:g} times as long as printed.\n")
    for size, rows in found:
        shown = by_target(f"{size.name} parameters, {size.layers} layers, {size.step_s:g} s a step")
        for row, found_entries in rows:
            shown.add_row(row.name, *map(_cell, found_entries))
        console.print(shown)
        print(f" {_counts(_agreement(rows))}\n")
    print(f"All sizes: {_counts(_agreement([row for _, rows in found for row in rows]))}.")
    step = f"{GRID[1] / GRID[0] - 1:.1%}"
    print(
        f"A notch is one step of the papers' grid: {len(GRID)} points from 0.1 to 1000 Gbit/s, {step} apart."
    )


def _cell(entry: Entry) -> str:
    ours, published = (
        f"{value:g}" if value <= GRID[-1] else ">1000" for value in (entry.ours, entry.published)
    )
    return f"{ours} ({published})" if entry.notches else ours


def _agreement(rows: list[tuple[PublishedRow, list[Entry]]]) -> Agreement:
    return Agreement.of([entry for _, found in rows for entry in found])


def _counts(agreement: Agreement) -> str:
    return (
        f"{agreement.exact} of {agreement.total} entries are exact, {agreement.within_a_notch} within a notch"
    )


def _plain(table: PublishedTable, found: Found) -> dict[str, object]:
    return {
        "title": table.title,
        "step_factor": table.step_factor,
        "sizes": {
            size.name: {
                "rows": {
                    row.name: [_plain_entry(entry) for entry in found_entries] for row, found_entries in rows
                },
                **_plain_agreement(rows),
            }
            for size, rows in found
        },
        **_plain_agreement([row for _, rows in found for row in rows]),
    }


def _plain_entry(entry: Entry) -> dict[str, float | None]:
    """None stands for what no point of the grid reaches."""
    ours, published = (value if value <= GRID[-1] else None for value in (entry.ours, entry.published))
    return {"ours": ours, "published": published, "notches": entry.notches}


def _plain_agreement(rows: list[tuple[PublishedRow, list[Entry]]]) -> dict[str, int]:
    found = _agreement(rows)
    return {"exact": found.exact, "within_a_notch": found.within_a_notch, "entries": found.total}


def _print_intellect_1(as_json: bool) -> None:
    found = intellect_1()
    if as_json:
        print(json.dumps([{"where": w, "ours": ours, "published": theirs} for w, ours, theirs in found]))
        return
    table = Table("where", "ours, %", "published, %", title="INTELLECT-1, compute utilization")
    for where, ours, theirs in found:
        table.add_row(where, f"{ours:.1f}", f"{theirs:.1f}")
    wide_console().print(table)
