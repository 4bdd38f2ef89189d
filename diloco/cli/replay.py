"""`diloco replay`: the events of several members, told as one story."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from diloco.monitoring.replay import Moment, read_events, spread_s, story
from diloco.terminal import printable

_WHO_SHOWN = 3
_CLOCKS_DIFFER_S = 1.0


def replay_command(
    files: Annotated[list[Path], typer.Argument(metavar="EVENTS...", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per row, for programs.")] = False,
) -> None:
    """Merge what several members wrote by --events into one story, in the order in which it happened.

    Their clocks may differ: events are put in order by the commits that all know, and times are those of the
    host if its file is among them."""
    lives = [read_events(path) for path in files]
    rows = story(lives)
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    console = Console()
    if (apart := spread_s(lives)) > _CLOCKS_DIFFER_S:
        console.print(Text(f"their clocks are {apart:,.0f} s apart; rows are in order by commits"))
    width = max((len(_names(row)) for row in rows), default=0)
    for row in rows:
        line = f"{row.at_s:10.1f} s  {row.index:>6}  {_names(row):<{width}}  {row.text}"
        console.print(Text(printable(line)), soft_wrap=True)


def _names(row: Moment) -> str:
    shown = ", ".join(row.who[:_WHO_SHOWN])
    return shown if len(row.who) <= _WHO_SHOWN else f"{shown} and {len(row.who) - _WHO_SHOWN} more"
