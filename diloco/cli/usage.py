"""Runs the command line's app, and turns what typer says of wrong flags into one line, as all bad input gets.

By itself typer prints how the command is called before it. Help that is printed where a command lacks
arguments stays whole. Owns the order in which help lists them;
decides nothing else about commands.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from diloco.errors import UserError

_WRONG_USAGE: type[Any] = typer.BadParameter.__bases__[0]
"""What all mistakes in flags are; typer hands out this one of them alone, and older ones have it of click."""


ORDER = (
    *("demo", "init", "host", "join", "status", "ticket", "kick", "stop", "checkpoint", "export"),
    *("plan", "cut", "simulate", "methods", "compare", "doctor", "replay"),
)
"""The commands as a person comes to need them."""


class InOrder(TyperGroup):
    """A command whose help lists its commands so."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names; what has no place yet comes last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """The exit code of the command that the arguments (by default this process's) name. Raises `UserError`
    for flags that cannot be."""
    try:
        return app(arguments, standalone_mode=False) or 0
    except typer.Abort:
        print("diloco: aborted", file=sys.stderr)
        return 1
    except _WRONG_USAGE as error:
        text = error.format_message()
        if len(text.splitlines()) > 1:
            print(text, file=sys.stderr)
            return int(error.exit_code)
        help_ = f" ({error.ctx.command_path} --help)" if error.ctx is not None else ""
        raise UserError(f"{text.rstrip('.')}{help_}") from None


def finite(value: float) -> float:
    """Of an option that is a number: what is no number is within all bounds."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number that can be used")
    return value
