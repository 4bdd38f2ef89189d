"""What a feeder evaluates: microbatches that go forward only, now and then, and the loss that came of them.

Owns when, which are under way, and the mean. Nothing of it is training: no gradient follows, and nobody
counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diloco.pipeline.microbatch import MicrobatchId

EVERY = 10
"""Rounds between two evaluations, but for the last one."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation that is over."""

    round: int
    loss: float | None
    """Mean over the tokens, at the live weights of the replicas that each microbatch went through; None if
    nothing came of any."""
    microbatches: int
    given_up: int


class Validation:
    """Of one feeder."""

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]] = (), every: int = EVERY) -> None:
        self._batches, self._every = batches, every
        self.last: Evaluated | None = None
        """The newest one that is over."""
        self._round = -1
        """Of the last one that was begun."""
        self._left: list[tuple[Tensor, Tensor]] = []
        self._under_way: set[MicrobatchId] = set()
        self._sum, self._tokens, self._num, self._given_up = 0.0, 0, 0, 0

    def next(self, round_: int, last: int) -> tuple[Tensor, Tensor] | None:
        """The microbatch to feed now; None if nothing is to be evaluated. It stays until it was `fed`. From
        ``last`` on the run's last round is under way, which is evaluated whatever its number."""
        is_due = round_ % self._every == 0 or self._round < last <= round_
        if not (self._left or self._under_way) and is_due and round_ != self._round:
            self._round, self._left = round_, list(reversed(self._batches))
            self._sum, self._tokens, self._num, self._given_up = 0.0, 0, 0, 0
        return self._left[-1] if self._left else None

    def fed(self, name: MicrobatchId) -> None:
        """The member took it."""
        self._left.pop()
        self._under_way.add(name)

    def ended(self, name: MicrobatchId, loss_sum: float, tokens: int) -> Evaluated | None:
        """One is over, of no tokens if it was given up; the evaluation, if that was its last one."""
        if name not in self._under_way:
            return None
        self._under_way.remove(name)
        self._sum, self._tokens = self._sum + loss_sum, self._tokens + tokens
        self._num, self._given_up = self._num + bool(tokens), self._given_up + (not tokens)
        if self._left or self._under_way:
            return None
        loss = self._sum / self._tokens if self._tokens else None
        self.last = Evaluated(self._round, loss, self._num, self._given_up)
        return self.last

    def begin_anew(self) -> None:
        """A membership is over, and what was under way with it."""
        self._left.clear()
        self._under_way.clear()
