"""The peers of a simulated swarm and how fast each computes, drawn from named streams of the run's seed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from transport.simnet.links import Access


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long inner steps take, in seconds of virtual time."""

    step_s: float = 1.0
    jitter: float = 0.0
    """Standard deviation of the logarithm of a step's duration, drawn anew for each; the mean stays."""
    drift: float = 0.0
    """Standard deviation, after an hour, of the logarithm of the step time, which wanders."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer, over all its lives."""

    name: str
    access: Access
    step_time: StepTime = StepTime()
    tokens_per_step: int = 1
    region: str = ""
    joins_at_s: float = 0.0
    role: str = ""
    """What it does instead of what it should (`diloco.simulation.roles`); nothing for an honest peer."""
    stage: int | None = None
    """That it asks for, of a model that is cut; None if it takes any."""
    memory_bytes: int = 0
    """That it says it has for a stage; 0 if it says nothing."""


class Clockwork:
    """Draws the durations of one peer's steps."""

    def __init__(self, step_time: StepTime, rng: random.Random) -> None:
        self._step_time = step_time
        self._rng = rng
        self._factor = 1.0
        self.slowed = 1.0
        """So many times longer everything takes, for a while."""

    def durations(self, count: int) -> list[float]:
        """Seconds that each of the next steps takes."""
        step_s, jitter = self._step_time.step_s * self._factor * self.slowed, self._step_time.jitter
        if jitter:
            least = step_s * math.exp(-jitter * jitter / 2)
            durations = [least * math.exp(jitter * self._rng.gauss(0.0, 1.0)) for _ in range(count)]
        else:
            durations = [step_s] * count
        if self._step_time.drift:
            hours = sum(durations) / 3600
            self._factor *= math.exp(self._step_time.drift * math.sqrt(hours) * self._rng.gauss(0.0, 1.0))
        return durations
