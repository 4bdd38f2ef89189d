"""What a command trains, by the flags of `host --train` and `join`. Torch is imported when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import diloco
from diloco.errors import UserError
from diloco.interrupts import Interrupts
from diloco.monitoring.event_log import EventLog

if TYPE_CHECKING:
    from diloco.cli.train import TrainingOutcome


@dataclass(frozen=True, slots=True)
class Work:
    """Flags of training."""

    recipe: str
    data: Path | None
    device: str
    save: Path | None
    threads: int | None
    full: bool = False

    def __post_init__(self) -> None:
        if self.full and self.save is None:
            raise UserError("--full says what --save writes: give --save FILE too")

    def train(self, swarm: diloco.Swarm, interrupts: Interrupts, log: EventLog) -> TrainingOutcome:
        """Train until the run is done."""
        import torch

        from diloco.cli.train import make_job, train
        from diloco.recipe import load_recipe

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        job = make_job(load_recipe(self.recipe), swarm, self.data, self.device)
        return train(swarm, job, log=log, interrupts=interrupts, save=self.save, full=self.full)
