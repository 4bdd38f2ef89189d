"""Where a view is shown: what fits on a terminal, lines elsewhere, and what is logged meanwhile."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from diloco.monitoring.display import Display, newest
from transport.effects import Trace
from transport.in_order import StoreFailedTrace

LOG = logging.getLogger("diloco.display")


class Notes:
    """A view of notes alone."""

    began = 0.0

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    def render(self, width: int | None = None, height: int | None = None) -> RenderableType:
        return Text(f"{width}x{height} " + " ".join(self.notes))


class Telling(Display):
    tells: tuple[type[Trace], ...] = (StoreFailedTrace,)


@pytest.fixture
def stderr() -> Iterator[io.StringIO]:
    """What handlers of the root logger print, as those of a command do."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    yield said
    assert handler in logging.getLogger().handlers, "as it was before"
    logging.getLogger().removeHandler(handler)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=terminal)


def printed(where: Console) -> str:
    return where.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_terminal_gets_its_size_and_its_cursor_is_never_hidden() -> None:
    where = console(terminal=True)
    with Display(Notes(), where) as display:
        assert display.is_live
        display.note("something")
    assert "80x23 something" in printed(where)
    assert "\x1b[?25l" not in printed(where)


def test_what_is_logged_is_a_note_on_a_terminal_and_its_traceback_stands_above(stderr: io.StringIO) -> None:
    where, view = console(terminal=True), Notes()
    with Telling(view, where):
        LOG.warning("waiting for 8 s: \x1b[2J")
        LOG.error("it failed:\nTraceback 1\nTraceback 2")
        LOG.error("the disk is full", extra={"trace": StoreFailedTrace("full")})
    LOG.warning("after")
    assert view.notes == ["waiting for 8 s: ?[2J", "it failed:"]
    assert "Traceback 2" in printed(where)
    assert stderr.getvalue() == "after\n"


def test_elsewhere_it_is_logged_as_ever_but_for_what_the_view_tells(stderr: io.StringIO) -> None:
    view = Notes()
    with Telling(view, console(terminal=False)):
        LOG.warning("waiting")
        LOG.error("the disk is full", extra={"trace": StoreFailedTrace("full")})
    LOG.error("the disk is full", extra={"trace": StoreFailedTrace("full")})
    assert stderr.getvalue() == "waiting\nthe disk is full\n"
    assert view.notes == []


def test_of_notes_the_newest_fit_whole_and_the_last_one_is_cut_rather_than_left_out() -> None:
    notes = ["one " * 30, "two", "three " * 20]
    assert newest(notes, None, None).plain.splitlines() == notes
    shown = newest(notes, 40, 5).plain.splitlines()
    assert shown[0] == "two"
    assert len(shown) == 5
    assert max(map(len, shown)) <= 40
    assert len(newest(notes, 40, 2).plain.splitlines()) == 2
    assert newest(notes, 40, 2).plain.startswith("three")
    assert newest([], 40, 5).plain == ""
