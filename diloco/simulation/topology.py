"""From a scenario to what the engine takes: peers with their paces, and the routes between them.

What is random about them is drawn here, from named streams of the scenario's seed, before anything runs:
equal seeds give equal peers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

from diloco.simulation.identities import HOST, key_of
from diloco.simulation.pace import Peer, StepTime
from diloco.simulation.roles.sybil import Sybil, identities_of
from diloco.simulation.scenario import Group, LinkEnd, Scenario
from transport.simnet.links import Access, Pipe
from transport.simnet.routes import Route


def access_of(end: LinkEnd) -> Access:
    """The access link of a peer, in bytes per second."""
    down = end.up if end.down is None else end.down
    return Access(end.up / 8, down / 8, end.latency, end.jitter, end.loss)


def peers_of(scenario: Scenario) -> list[Peer]:
    """Everyone but the host."""
    return [peer for group in scenario.peers for peer in _group(scenario, group)]


def _group(scenario: Scenario, group: Group) -> list[Peer]:
    rng = stream_of(scenario, f"spread of {group.name}")
    model = scenario.timed_model()
    tokens = group.tokens_per_step or (model.tokens_per_step if model else None)
    if tokens is None:
        settings = scenario.settings()
        tokens = settings.train.batch_size * settings.model.context
    peers = []
    for name in group.names:
        step_s = scenario.step_s(group) * math.exp(group.spread * rng.gauss(0.0, 1.0))
        step_time = StepTime(step_s, group.step_jitter, group.drift)
        joins_at = math.inf if group.joins_at == "event" else group.joins_at
        role, region = group.role or "", group.region or ""
        peer = Peer(name, access_of(group), step_time, round(tokens), region, joins_at, role)
        peers.append(replace(peer, stage=group.stage, memory_bytes=round(group.memory or 0)))
        if role == Sybil.name:
            peers += [replace(peers[-1], name=each, joins_at_s=math.inf) for each in identities_of(name)]
    return peers


def route_of(scenario: Scenario) -> Callable[[bytes, bytes], Route | None] | None:
    """What lies between two peers beside their own links; None if nothing does anywhere."""
    links = [*(scenario.matrix.links() if scenario.matrix else ()), *scenario.links]
    if not links:
        return None
    routes: dict[tuple[str, str], Route] = {}
    for link in links:
        one, two = link.between
        for way in {(one, two), (two, one)}:
            pipes = (Pipe(link.rate / 8),) if link.rate else ()
            routes[way] = Route(link.rtt / 2, link.jitter, pipes, link.loss)
    regions = {key_of(HOST): scenario.host.region}
    regions |= {key_of(name): group.region for group in scenario.peers for name in group.names}
    return lambda one, two: routes.get((regions.get(one) or "", regions.get(two) or ""))


def stream_of(scenario: Scenario, name: str) -> random.Random:
    return random.Random(f"{scenario.seed}:{name}")
