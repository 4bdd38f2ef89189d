"""How many inner steps a run asks of a worker, for loops that want a number before they begin. Pure."""

from __future__ import annotations

from diloco.settings import RunSettings
from diloco.swarm.swarm import Swarm

_MORE = 2
"""Rounds that a loop has steps for beyond the run's, which may lose some; the run's end comes first."""


def least_steps(settings: RunSettings) -> int:
    """Inner steps of a worker that is there from the first round to the last, if none is lost."""
    return settings.run.rounds * settings.method.resolved().sync_every


def run_steps(swarm: Swarm) -> int:
    """Inner steps to give a loop that counts them (``max_steps``): those of the run and of two rounds more,
    since it is the swarm that ends the run."""
    settings = swarm.settings
    return least_steps(settings) + _MORE * settings.method.resolved().sync_every
