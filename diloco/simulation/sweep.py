"""Many seeds of one scenario, each checked; and the shortest list of faults that still breaks one.

Owns the parallel processes and the shrinking. A seed gives its own draws of paces and random events; its
faults are a list of single ones before anything runs, so that any of them can be left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from diloco.simulation.faults import Fault, faults_of
from diloco.simulation.report.report import SimulationReport
from diloco.simulation.runner import simulate
from diloco.simulation.scenario import Scenario


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """What one seed came to."""

    seed: int
    rounds: int
    seconds: float
    utilization: float
    tokens_per_s: float
    problem: str
    """The first invariant that did not hold, or the error that ended it; nothing if all is well."""
    trace_hash: str


def outcome_of(scenario: Scenario, seed: int, faults: Sequence[Fault] | None = None) -> SeedOutcome:
    """Run one seed. An exception in the code that runs is a finding, not an end."""
    try:
        report = simulate(scenario, seed=seed, faults=faults)
    except Exception as error:
        return SeedOutcome(seed, 0, 0.0, 0.0, 0.0, f"{type(error).__name__}: {error}", "")
    return _outcome(seed, report)


def _outcome(seed: int, report: SimulationReport) -> SeedOutcome:
    problem = report.violations[0] if report.violations else ""
    rounds, hashed = len(report.rounds), report.trace_hash
    return SeedOutcome(seed, rounds, report.seconds, report.utilization, report.tokens_per_s, problem, hashed)


def run_seeds(
    scenario: Scenario, seeds: Sequence[int], processes: int | None = None
) -> Iterator[SeedOutcome]:
    """Every seed, in parallel processes, in order."""
    processes = processes or os.cpu_count() or 1
    if processes == 1 or len(seeds) == 1:
        yield from (outcome_of(scenario, seed) for seed in seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(outcome_of, scenario), seeds)


def shrink(
    scenario: Scenario,
    seed: int,
    problem: str,
    run: Callable[[Scenario, int, Sequence[Fault]], SeedOutcome] = outcome_of,
) -> list[int]:
    """The fewest faults found with which ``seed`` still breaks in the same way (the same invariant or type of
    error), by their position in `faults.faults_of`: first none at all, then ever smaller parts are left
    out."""
    kind = _kind(problem)
    faults = faults_of(scenario.model_copy(update={"seed": seed}))

    def breaks(some: list[int]) -> bool:
        return _kind(run(scenario, seed, [faults[i] for i in some]).problem) == kind

    if breaks([]):
        return []
    left = list(range(len(faults)))
    size = max(1, len(left) // 2)
    while True:
        start = 0
        while start < len(left):
            without = left[:start] + left[start + size :]
            if without and breaks(without):
                left = without
            else:
                start += size
        if size == 1:
            return left
        size //= 2


def _kind(problem: str) -> str:
    """An invariant's number or an error's type: what must stay the same when faults are left out."""
    return (
        " ".join(problem.split(" ", 2)[:2]) if problem.startswith("invariant") else problem.split(":", 1)[0]
    )
