"""Flags that cannot be: one line that names the flag, and nothing is begun."""

from __future__ import annotations

from typing import Annotated, get_args, get_origin

import pytest
import typer

from diloco.cli import options
from diloco.cli.app import app
from diloco.cli.usage import ORDER, finite, run_app
from diloco.errors import UserError

WRONG = [
    ("host RUN.toml --resume -1", "--resume"),
    ("host RUN.toml --resume x", "--resume"),
    ("host RUN.toml --notice 0", "--notice"),
    ("host RUN.toml --notice nan", "--notice"),
    ("host RUN.toml --notice inf", "--notice"),
    ("host RUN.toml --threads 0", "--threads"),
    ("host RUN.toml --truncate-at 0", "--truncate-at"),
    ("host RUN.toml --ticket-uses -1", "--ticket-uses"),
    ("host RUN.toml --ticket-hours 0", "--ticket-hours"),
    ("host RUN.toml --ticket-hours nan", "--ticket-hours"),
    ("host RUN.toml --ticket-hours inf", "--ticket-hours"),
    ("join @ticket --resume -1", "--resume"),
    ("join @ticket --notice -1", "--notice"),
    ("join @ticket --threads 999999", "--threads"),
    ("ticket --uses -1", "--uses"),
    ("ticket --uses 1.5", "--uses"),
    ("ticket --hours x", "--hours"),
    ("ticket --hours nan", "--hours"),
    ("demo --workers 1", "--workers"),
    ("demo --rounds 0", "--rounds"),
    ("simulate --seed -1", "--seed"),
    ("simulate --processes 0", "--processes"),
    ("methods --peers 1", "--peers"),
    ("compare single --workers 0", "--workers"),
    ("compare single --seeds 0", "--seeds"),
    ("compare single --layers 0", "--layers"),
    ("compare single --inner-lr nan", "--inner-lr"),
    ("compare single --sync-every 0", "--sync-every"),
    ("plan --layers 0", "--layers"),
    ("plan --peers 1", "--peers"),
    ("plan --mfu nan", "--mfu"),
]


@pytest.mark.parametrize(("words", "flag"), WRONG, ids=[words for words, _ in WRONG])
def test_a_number_that_cannot_be_is_one_line_that_names_its_flag(words: str, flag: str) -> None:
    with pytest.raises(UserError) as caught:
        run_app(app, words.split())
    said = str(caught.value)
    assert f"'{flag}'" in said
    assert said.endswith(" --help)")
    assert len(said.splitlines()) == 1


def test_help_is_whole_and_a_command_that_ends_well_has_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["--version"]) == 0
    assert run_app(app, ["checkpoint"]) == 2
    said = capsys.readouterr()
    assert len(f"{said.out}{said.err}".splitlines()) > 10


def test_what_is_no_number_is_refused_where_bounds_let_it_pass() -> None:
    assert finite(0.5) == 0.5
    with pytest.raises(typer.BadParameter, match="nan is no number"):
        finite(float("nan"))


def test_every_shared_option_that_is_a_float_is_checked_to_be_a_number() -> None:
    kinds = [get_args(each) for each in vars(options).values() if get_origin(each) is Annotated]
    floats = [option for kind, option in kinds if kind is float]
    assert len(floats) == 2
    assert all(each.callback is finite for each in floats)


@pytest.mark.parametrize("words", [["-h"], ["join", "-h"], ["checkpoint", "list", "-h"]])
def test_the_short_flag_for_help_is_known_to_all_commands(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, words) == 0
    assert "-h, --help" in capsys.readouterr().out


def test_help_lists_all_commands_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    names = [line.split()[0] for line in listed]
    assert tuple(names[: len(ORDER)]) == ORDER, "what has no place yet comes last"
