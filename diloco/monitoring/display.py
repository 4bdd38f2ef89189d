"""Where a view is shown: live on a terminal, line by line elsewhere; what is logged meanwhile is part of it.

Owns the terminal while it is entered, and how much fits on it: the newest notes are always to be seen. Knows
nothing of runs. The cursor stays visible, so that who is killed leaves a terminal that can be used.
"""

from __future__ import annotations

import logging
import textwrap
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from diloco.terminal import printable
from transport.effects import Trace

MARGIN_LINES = 1
"""The cursor stands below the view."""


class View(Protocol):
    """What is shown. Called under the display's lock."""

    began: float
    """By the monotonic clock."""

    def note(self, line: str) -> None:
        """Something to show for a while."""

    def render(self, width: int | None = None, height: int | None = None) -> RenderableType:
        """All of it, or as much as fits."""


class Display:
    """Shows a view. A context. Views change on any thread and are drawn on another: a lock keeps them
    apart."""

    tells: tuple[type[Trace], ...] = ()
    """Traces that the view tells of: a log line about one is left out."""

    def __init__(self, view: View, console: Console | None = None) -> None:
        self.lock = threading.Lock()
        self._shown = view
        self._console = console or Console()
        self._live: Live | None = None
        self._logs = _Logs(self)
        if self._console.is_terminal:
            self._console.show_cursor = lambda show=True: False  # type: ignore[method-assign]
            self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=4)

    @property
    def is_live(self) -> bool:
        """Whether it is shown on a terminal."""
        return self._live is not None

    def note(self, line: str) -> None:
        """Tell something."""
        with self.lock:
            self._shown.note(line)
        self.say(line)

    def say(self, line: str) -> None:
        """Print a line that is noted already, where nothing is shown live."""
        if self._live is None:
            seconds = time.monotonic() - self._shown.began
            self._console.print(f"{seconds:7.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)

    def above(self, text: str) -> None:
        """Print what is too long for a note, above the view."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """The view as it is now."""
        width, height = self._console.size
        with self.lock:
            return self._shown.render(width, height - MARGIN_LINES)

    def __enter__(self) -> Display:
        self._logs.begin(live=self.is_live)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._logs.end()


class _Logs(logging.Handler):
    """Has what is logged for people shown by a display: as notes where it is live, for a line on the terminal
    would tear the view; elsewhere as before, but for what the view tells itself."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display
        self._before: list[logging.Handler] = []

    def begin(self, *, live: bool) -> None:
        root = logging.getLogger()
        self._before = [each for each in root.handlers if type(each) is logging.StreamHandler]
        for each in self._before:
            if live:
                root.removeHandler(each)
            else:
                each.addFilter(self._is_news)
        if live and self._before:
            root.addHandler(self)

    def end(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        for each in self._before:
            each.removeFilter(self._is_news)
            if each not in root.handlers:
                root.addHandler(each)
        self._before = []

    def _is_news(self, record: logging.LogRecord) -> bool:
        return not isinstance(getattr(record, "trace", None), self._display.tells)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_news(record):
            return
        text = logging.Formatter().format(record)
        first, _, rest = text.partition("\n")
        self._display.note(printable(first))
        if rest:
            self._display.above(text)


def newest(notes: Iterable[str], width: int | None, height: int | None) -> Text:
    """As many of the last notes as fit, the newest at the end; of one that is too long its beginning."""
    lines: list[str] = []
    for note in reversed(list(notes)):
        wrapped = textwrap.wrap(note, width, subsequent_indent=" " * 10) if width else [note]
        if height is not None and len(lines) + len(wrapped) > height:
            lines = lines or wrapped[: max(1, height)]
            break
        lines = wrapped + lines
    return Text("\n".join(lines), style="dim")
