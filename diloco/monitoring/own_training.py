"""What one worker's own training is shown as: its steps, its traffic, and how fast both are.

Fed by the training thread, read by whoever draws. Decides nothing, and keeps a few seconds of counts.
"""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from diloco.units import duration_text

_HEADING_WIDTH = len("this worker  ")
_RATE_S = 10.0
"""Rates are those of about so many seconds."""


@dataclass(slots=True)
class OwnTraining:
    """One worker's numbers."""

    where: str
    """Device and threads."""
    traffic: Callable[[], tuple[int, int]]
    """Bytes that this process sent and received so far."""
    clock: Callable[[], float]
    step: int = 0
    loss: float | None = None
    """Of a model in stages the last one alone knows it."""
    tokens_per_second: float = 0.0
    waited_s: float = 0.0
    trained_s: float = 0.0
    """Since the first step, waiting included."""
    _began: float | None = None
    _counts: deque[tuple[float, int, int]] = field(default_factory=deque)

    def stepped(self, step: int, loss: float | None, tokens_per_second: float, waited_s: float) -> None:
        """One inner step is done."""
        now = self.clock()
        self._began = now if self._began is None else self._began
        self.trained_s = now - self._began
        self.step, self.loss = step, loss
        self.tokens_per_second, self.waited_s = tokens_per_second, waited_s

    def rates(self) -> tuple[float, float]:
        """Bytes per second up and down, just now."""
        now, (up, down) = self.clock(), self.traffic()
        if not self._counts or now - self._counts[-1][0] >= 1.0:
            self._counts.append((now, up, down))
        while len(self._counts) > 2 and now - self._counts[1][0] > _RATE_S:
            self._counts.popleft()
        then, up_then, down_then = self._counts[0]
        passed = now - then
        return ((up - up_then) / passed, (down - down_then) / passed) if passed >= 0.5 else (0.0, 0.0)

    def training_text(self) -> str:
        """Step, loss, speed and place."""
        if self._began is None:
            return f"no step yet; {self.where}"
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"step {self.step:,}{loss}, {self.tokens_per_second:,.0f} tokens/s; {self.where}"

    def network_text(self) -> str:
        """What went over the line, how fast, and what training waited for it."""
        (up, down), (up_bps, down_bps) = self.traffic(), self.rates()
        share = f" ({100 * min(1.0, self.waited_s / self.trained_s):.0f} %)" if self.trained_s > 0 else ""
        return (
            f"{up / 1e6:.1f} MB up, {down / 1e6:.1f} down; now {up_bps / 1e6:.2f} and "
            f"{down_bps / 1e6:.2f} MB/s; waited {duration_text(self.waited_s)}{share}"
        )

    def panel(self, width: int | None = None) -> Table:
        """Two lines."""
        return lines_table(
            [("this worker", self.training_text()), ("network", self.network_text())], width, 1
        )


def lines_table(rows: list[tuple[str, str]], width: int | None, max_lines: int) -> Table:
    """Headings and what belongs to them, of at most so many lines each."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    for heading, text in rows:
        table.add_row(heading, Text("\n".join(wrapped(text, width, max_lines))))
    return table


def wrapped(text: str, width: int | None, max_lines: int) -> list[str]:
    """The lines that a row of `lines_table` takes."""
    if width is None:
        return [text]
    room = max(_HEADING_WIDTH, width - _HEADING_WIDTH)
    return textwrap.wrap(text, room, max_lines=max_lines, placeholder=" ...") or [""]
