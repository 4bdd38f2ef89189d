"""What happens to a simulated swarm and when: a scenario's events as single faults.

Everything that is random about them is drawn here, from named streams of the scenario's seed, before anything
runs: so a fault can be left out of a run without changing the others.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from diloco.simulation.scenario import Event, Scenario
from diloco.simulation.topology import peers_of, stream_of

_MAX_FAULTS = 100_000

_DEFAULT_END_FACTOR = 20.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens once. Either at a time or at a round."""

    do: str
    peers: tuple[str, ...]
    at_s: float | None = None
    round: int | None = None
    after_s: float = 0.0
    """From that round on."""
    lasts_s: float | None = None
    factor: float = 1.0
    others: tuple[str, ...] = ()
    """From whom a cut parts the peers."""

    def __str__(self) -> str:
        after = f" and {self.after_s:g} s" if self.after_s else ""
        when = f"at {self.at_s:.3f} s" if self.at_s is not None else f"at round {self.round}{after}"
        lasts = f" for {self.lasts_s:g} s" if self.lasts_s is not None else ""
        factor = f" by {self.factor:g}" if self.do in ("degrade", "slow") else ""
        others = f" from {', '.join(self.others)}" if self.others else ""
        return f"{when}: {self.do} {', '.join(self.peers)}{others}{factor}{lasts}"


def end_s(scenario: Scenario) -> float:
    """When the scenario ends at the latest: as it says, or after twenty times the time that its run takes
    without a network, and an hour."""
    if scenario.end is not None:
        return scenario.end
    settings = scenario.settings()
    steps = settings.run.rounds * settings.method.resolved().sync_every
    slowest = max(peer.step_time.step_s for peer in peers_of(scenario)) * scenario.works_per_step
    return _DEFAULT_END_FACTOR * steps * slowest + 3600.0


def faults_of(scenario: Scenario) -> list[Fault]:
    """Every event of the scenario, one by one, in the order of time."""
    last = end_s(scenario)
    faults: list[Fault] = []
    for index, event in enumerate(scenario.events):
        rng = stream_of(scenario, f"event {index}")
        for at in _times(event, rng, last):
            others: tuple[str, ...] = ()
            if event.do == "cut":
                chosen, others = _two_sides(scenario, event)
            else:
                chosen = _chosen(scenario, event, rng)
            faults.append(
                Fault(event.do, chosen, at, event.round, event.after, event.lasts, event.factor, others)
            )
            if len(faults) > _MAX_FAULTS:
                raise ValueError(f"events.{index}: more than {_MAX_FAULTS} events until {last:.0f} s")
    return sorted(faults, key=lambda fault: math.inf if fault.at_s is None else fault.at_s)


def _times(event: Event, rng: random.Random, last: float) -> list[float | None]:
    if event.every is None:
        return [event.at]
    times: list[float | None] = []
    at = rng.expovariate(1 / event.every)
    while at < min(last, math.inf if event.until is None else event.until):
        times.append(at)
        at += rng.expovariate(1 / event.every)
    return times


def _chosen(scenario: Scenario, event: Event, rng: random.Random) -> tuple[str, ...]:
    if event.names == ("any",):
        return (rng.choice(scenario.peer_names),)
    found = [peer for name in event.names for peer in scenario.who(name)]
    return tuple(dict.fromkeys(found))


def _two_sides(scenario: Scenario, event: Event) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first of the names, and all others."""
    sides = [scenario.who(name) for name in event.names]
    others = [peer for side in sides[1:] for peer in side if peer not in sides[0]]
    return tuple(sides[0]), tuple(dict.fromkeys(others))
