"""How long a run's steps and exchanges take: the model behind `diloco plan`, and behind the papers' tables.

Workers compute, exchanges take the line one after the other, and a step waits for what must have landed
before it: one worker in steady state (`steady`), or many whose steps differ (`together`). Pure arithmetic;
assumptions are in docs/planning.md. Knows no method: a load says what is exchanged when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_PERIODS = 3
"""Periods that are computed; the first fills the line, the others count."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker does over one period of ``sync_every`` steps, the same in each period."""

    step_s: float
    """Compute of one step."""
    sync_every: int
    due: Callable[[int], Sequence[int]]
    """Which units (fragments, or layers) are exchanged after step ``i`` of a period, counted from 1."""
    wire_s: Sequence[float]
    """Seconds that each unit's exchange takes on the line."""
    latency_s: float = 0.0
    """Seconds that an exchange takes beside, while the line is free for others."""
    delay: int = 0
    """Steps that a result may take to land."""
    layered: bool = False
    """Units are layers of equal compute: an exchange begins within the step, once the layer's gradient is
    there, and what waits for it is the layer's next forward pass. Otherwise both are at the ends of steps."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Means over the periods that count, in seconds of one period."""

    compute_s: float
    exposed_s: float
    """Waiting for exchanges."""
    hidden_s: float
    """Of exchanges, while the worker computes."""

    def times(self, factor: float) -> Timing:
        """Of so many periods."""
        return Timing(factor * self.compute_s, factor * self.exposed_s, factor * self.hidden_s)

    @property
    def period_s(self) -> float:
        return self.compute_s + self.exposed_s

    @property
    def utilization(self) -> float:
        return self.compute_s / self.period_s if self.period_s else 1.0


class _Worker:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.now = self.free_at = self.waited = 0.0
        self.lands: dict[int, tuple[int, float]] = {}
        """By unit: before which step its result must be there, and when it is."""

    def step(self, number: int) -> None:
        load = self.load
        due = load.due((number - 1) % load.sync_every + 1)
        if load.layered and (due or any(step <= number for step, _ in self.lands.values())):
            self._step_by_layers(number, due)
            return
        self._wait([unit for unit, (step, _) in self.lands.items() if step <= number])
        self.now += load.step_s
        self._wait(
            [unit for unit in due if unit in self.lands]
        )  # its last result lands before the next offer
        for unit in due:
            self._exchange(unit, number)

    def _step_by_layers(self, number: int, due: Sequence[int]) -> None:
        # Forward, gradient of activations (not of the first layer's), gradient of weights: a third each.
        layers = len(self.load.wire_s)
        part = self.load.step_s / (3 * layers - 1)
        for layer in range(layers):
            if self.lands.get(layer, (number + 1, 0.0))[0] <= number:
                self._wait([layer])
            self.now += part
        for layer in reversed(range(layers)):
            self.now += part if layer == 0 else 2 * part
            if layer in due:
                self._exchange(layer, number)

    def _exchange(self, unit: int, number: int) -> None:
        self.free_at = max(self.now, self.free_at) + self.load.wire_s[unit]
        self.lands[unit] = number + 1 + self.load.delay, self.free_at + self.load.latency_s

    def _wait(self, units: Sequence[int]) -> None:
        for unit in units:
            _, ready = self.lands.pop(unit)
            self.waited += max(0.0, ready - self.now)
            self.now = max(self.now, ready)


def steady(load: Load) -> Timing:
    """The timing of one period once the line has filled."""
    worker = _Worker(load)
    for number in range(1, load.sync_every + 1):
        worker.step(number)
    began, waited = worker.now, worker.waited
    for number in range(load.sync_every + 1, _PERIODS * load.sync_every + 1):
        worker.step(number)
    periods = _PERIODS - 1
    exposed = (worker.waited - waited) / periods
    compute = (worker.now - began) / periods - exposed
    busy = sum(load.wire_s[unit] for i in range(1, load.sync_every + 1) for unit in load.due(i))
    return Timing(compute, exposed, max(0.0, busy - exposed))


Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Groups:
    """Who exchanges with whom once, each group on a line of its own."""

    group_of: npt.NDArray[np.int64]
    """By worker, the number of its group."""
    took_s: Times
    """By group, the seconds of its exchange."""

    def ready(self, now: Times) -> Times:
        """By worker, when its group is done, if its workers have offered by ``now``."""
        offered = np.full(len(self.took_s), -np.inf)
        np.maximum.at(offered, self.group_of, now)
        return (offered + self.took_s)[self.group_of]


def together(
    load: Load,
    steps: Callable[[], Times],
    groups: Callable[[], Groups] | None = None,
    periods: int = _PERIODS,
) -> float:
    """Mean compute utilization of many workers in steady state: ``steps()`` draws how long each one's next
    step takes, [workers]. An exchange begins once all have offered; with ``groups``, which draws who is with
    whom, once those of a group have. The first of the ``periods`` does not count."""
    now, free_at = np.zeros(len(steps())), 0.0
    lands: dict[int, tuple[int, Times]] = {}
    waited, computed = np.zeros_like(now), np.zeros_like(now)
    for number in range(1, periods * load.sync_every + 1):
        if number == load.sync_every + 1:
            waited[:], computed[:] = 0.0, 0.0
        for unit in [unit for unit, (step, _) in lands.items() if step <= number]:
            _, ready = lands.pop(unit)
            waited += np.maximum(0.0, ready - now)
            now = np.maximum(now, ready)
        took = steps()
        now, computed = now + took, computed + took
        for unit in load.due((number - 1) % load.sync_every + 1):
            if unit in lands:  # its last result lands before the next offer
                _, ready = lands.pop(unit)
                waited += np.maximum(0.0, ready - now)
                now = np.maximum(now, ready)
            if groups is None:
                free_at = max(float(now.max()), free_at) + load.wire_s[unit]
                ready = np.full_like(now, free_at + load.latency_s)
            else:
                ready = groups().ready(now)
            lands[unit] = number + 1 + load.delay, ready
    return float(np.mean(computed / (computed + waited)))
