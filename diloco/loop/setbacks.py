"""Progress that is not finite: how much was given up, who is told, and when a worker stops.

Counts for each fragment how many of its contributions in a row were not finite. What is not finite spreads to
all fragments in one backward, but one alone may stay so for ever: either ends training after `MAX_IN_A_ROW`.
Keeps S4: what is given up here has the fate `NON_FINITE`, and an event tells of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from diloco.errors import NonFiniteContribution, TrainingDiverged
from peers.protocol.commands import Command, LeaveRun
from peers.protocol.events import ProgressLost

NON_FINITE = "non_finite"
"""The fate of tokens whose progress was not finite and so was never offered."""
MAX_IN_A_ROW = 5
"""Contributions of one fragment that are not finite in a row before a worker leaves the run."""


class Setbacks:
    """What one worker gave up because it was not finite."""

    def __init__(self, num_fragments: int) -> None:
        self.count = 0
        """Contributions."""
        self.tokens = 0
        """Over all fragments: each counts the tokens that moved it."""
        self.diverged: TrainingDiverged | None = None
        """Why this worker stops, once it does."""
        self._in_a_row = [0] * num_fragments
        self._untold: list[ProgressLost] = []

    def passed(self, fragment: int) -> None:
        """A contribution of the fragment was finite."""
        self._in_a_row[fragment] = 0

    def lost(
        self,
        fragment: int,
        fragments: Sequence[int],
        tokens: int,
        error: NonFiniteContribution,
        mended: Sequence[str],
    ) -> list[Command]:
        """The contribution of ``fragment`` was not finite: ``fragments`` were given up with ``tokens``.
        Commands for the member."""
        self.count += 1
        self.tokens += tokens
        self._in_a_row[fragment] += 1
        times = self._in_a_row[fragment]
        self._untold.append(
            ProgressLost(fragment, tuple(fragments), tokens, str(error), times, tuple(mended))
        )
        if times < MAX_IN_A_ROW:
            return []
        self.diverged = TrainingDiverged(
            f"{error}, for the {times}th time in a row: this worker has left the run."
            " Look at its learning rate, its data and its mixed precision"
        )
        return [LeaveRun(f"what it trained was not finite {times} times in a row")]

    def buffers_lost(self, fragment: int, error: NonFiniteContribution) -> None:
        """The model's buffers were not finite: they begin anew, and parameters stay as they are."""
        self.count += 1
        self._untold.append(ProgressLost(fragment, (fragment,), 0, str(error), 1, ()))

    def take(self) -> list[ProgressLost]:
        """What was not told yet."""
        untold, self._untold = self._untold, []
        return untold
