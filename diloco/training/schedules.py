"""Learning rate schedules that follow the swarm's step: who joins late does not warm up while others decay.

Owns stepping a loop's own schedulers over the steps that this worker was not there for. The loop steps them
after each inner step as before.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import torch

from diloco.errors import UserError


class Scheduled(Protocol):
    """What torch's schedulers have."""

    last_epoch: int

    def step(self) -> Any:
        """One step of the schedule."""


class Schedules:
    """The schedulers of one loop."""

    def __init__(self) -> None:
        self._schedulers: list[Scheduled] = []

    def add(self, given: Any, step: int) -> None:
        """Move the scheduler that is given, out of accelerate's wrapper, to ``step``, if it is not there yet,
        and on with the others. Raises `UserError` for one that does not go by steps."""
        wraps = type(given).__module__.startswith("accelerate.") and hasattr(given, "scheduler")
        scheduler: Scheduled = given.scheduler if wraps else given
        if not goes_by_steps(scheduler):
            raise UserError(
                f"{type(scheduler).__name__} does not go by steps: only a scheduler that the loop steps after"
                " each inner step can follow the swarm"
            )
        self._schedulers.append(scheduler)
        _step(scheduler, step - scheduler.last_epoch)

    def skip(self, steps: int) -> None:
        """The swarm was found to be so many steps ahead of this worker."""
        for each in self._schedulers:
            _step(each, steps)


def goes_by_steps(scheduler: object) -> bool:
    """Not by what was measured."""
    by_metric = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    return not by_metric and hasattr(scheduler, "last_epoch")


def _step(scheduler: Scheduled, times: int) -> None:
    with warnings.catch_warnings():
        # The optimizer takes none of these steps.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(times):
            scheduler.step()
