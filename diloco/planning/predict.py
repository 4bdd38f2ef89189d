"""From a method, a model and links to a load of the timeline's model: what is moved, and over which line.

Owns the arithmetic of the direct exchange on access links, shared lines and round trips. Needs no torch. A
test holds it within 5 % of what `diloco simulate` finds.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diloco.methods.cost import (
    Cost,
    basis_values,
    cost_of,
    element_bytes,
    elements_sent,
    exchange_bytes,
    gossip_groups,
    mean_bytes,
    state_vectors,
    wire_element_bytes,
)
from diloco.methods.schedule import Schedule
from diloco.methods.spec import Method
from diloco.planning.timeline import Groups, Load, Timing, steady, together
from diloco.simulation.pace import Peer
from diloco.simulation.scenario import Scenario
from diloco.simulation.topology import peers_of
from peers.coordinator.pace import fastest_of
from transport.collectives.plan import chunk_elements_for
from transport.limits import LIMITS
from transport.simnet.routes import mathis_rate

_ADAM_BYTES = 16
"""Of a parameter on the device while it trains in fp32: itself, its gradient, AdamW's moments."""
LINE_EFFICIENCY = 0.99
"""Share of a line's nominal rate that an exchange over TCP gets: measured by scripts/bench_line.py, see
docs/planning.md."""
_WAYS_TO_OPEN = 2
"""Ways between peers, of those of a round, during which parts may leave: ready, open."""
_SWAPS = 33
"""Outer steps of gossip that are computed; the first does not count."""


@dataclass(frozen=True, slots=True)
class UniformSwarm:
    """Peers that are alike, and how they are joined."""

    peers: int
    up_bps: float
    """Bits per second, as all rates here."""
    down_bps: float
    rtt_s: float
    """Between any two, and to the coordinator."""
    step_s: float
    line_efficiency: float = 1.0
    """Share of the rates that exchanges really get."""

    @property
    def exchange_bps(self) -> float:
        """Of an exchange, which moves as much up as down."""
        return self.line_efficiency * min(self.up_bps, self.down_bps)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a method costs on a swarm."""

    timing: Timing
    """Of one period of H steps."""
    bytes_per_period: float
    """That a peer sends, and receives."""
    device_bytes: float
    host_bytes: float
    exchange_s: float
    """Of one outer step's exchanges, from the first offer to the last commit."""

    @property
    def utilization(self) -> float:
        return self.timing.utilization

    @property
    def bytes_per_day(self) -> float:
        """Sent by a peer."""
        return self.bytes_per_period / self.timing.period_s * 86_400


def predict(method: Method, num_parameters: float, swarm: UniformSwarm) -> Prediction:
    """What `method` does on equal peers. Where ranks and H adapt, it is before they have."""
    cost = cost_of(method, num_parameters, swarm.peers)
    wire_s = 8 * cost.per_outer_step / swarm.exchange_bps
    latency_s = _latency_s(method, num_parameters, swarm.peers, wire_s, swarm.rtt_s / 2)
    latency_s += _between_exchanges_s(method, cost, wire_s + latency_s, swarm.step_s)
    load = _load(method, swarm.step_s, wire_s, latency_s)
    at_once = max(len(load.due(step)) for step in range(1, load.sync_every + 1))
    exchange_s = at_once * wire_s + load.latency_s
    if method.gossips:
        timing, exchange_s = _swaps(method, num_parameters, swarm, load.latency_s)
    else:
        timing = steady(load).times(method.sync_every / load.sync_every)
    device, host = memory(method, num_parameters, swarm.peers)
    return Prediction(timing, cost.per_step * method.sync_every, device, host, exchange_s)


def _latency_s(method: Method, num_parameters: float, num_peers: int, wire_s: float, way_s: float) -> float:
    """What one outer step takes beside its bytes. Where parts leave before a round opens, they take no time
    as long as it takes that long to open it, nor does their way."""
    cost = cost_of(method, num_parameters, num_peers)
    early = _early_bytes(method, num_parameters, num_peers)
    if not early:
        return cost.ways * way_s
    saved_s = min(cost.exchanges * _WAYS_TO_OPEN * way_s, early / cost.per_exchange * wire_s)
    return (cost.ways - cost.exchanges) * way_s - saved_s


def _early_bytes(method: Method, num_parameters: float, num_peers: int) -> float:
    """What each may send of an exchange before its round opens: parts, up to a bound to each owner. Nothing,
    where somebody owns no chunk, for that one's parts are waited for."""
    if method.gossips or method.quorum == 1:
        return 0.0
    sent = math.ceil(elements_sent(method, num_parameters) / method.num_fragments)
    chunk_elements = chunk_elements_for(sent, num_peers, LIMITS, wire_element_bytes(method))
    if sent <= (num_peers - 1) * chunk_elements:
        return 0.0
    parts = sent * element_bytes(method.codec, method)
    return (num_peers - 1) * min(parts / num_peers, LIMITS.early_bytes)


def _between_exchanges_s(method: Method, cost: Cost, exchanges_s: float, step_s: float) -> float:
    """How long the exchanges of one outer step wait for each other: a worker that trains meanwhile offers the
    next one when its step ends."""
    each_s = exchanges_s / cost.exchanges
    if each_s >= method.delay * step_s:
        return 0.0  # it trains no more, and waits
    return (cost.exchanges - 1) * (math.ceil(each_s / step_s) * step_s - each_s)


def memory(method: Method, num_parameters: float, num_peers: int) -> tuple[float, float]:
    """Bytes on the device and on the host of a worker that trains in fp32 with AdamW: parameters, gradients
    and moments, and a fragment on its way; the outer state, a worker's own outer state, residuals, what is in
    flight, others' parts."""
    fragment = num_parameters / method.num_fragments
    vectors = state_vectors(method) + (2 if method.moments_every else 0)
    vectors += method.error_feedback != "none"
    if method.merge == "eager":
        vectors += state_vectors(method) + 1  # outer parameters that are one contribution ahead
    wire = fragment * (element_bytes(method.codec, method) + mean_bytes(method, num_peers))
    in_flight = 2 if method.delay else 1  # the contribution; where its local steps began
    host = 4 * num_parameters * vectors + 4 * fragment * in_flight + 2 * wire
    host += 4 * basis_values(method, num_parameters)
    return _ADAM_BYTES * num_parameters + 4 * fragment, host


def _load(method: Method, step_s: float, wire_s: float, latency_s: float) -> Load:
    schedule = Schedule.of(method)
    whole = math.lcm(*schedule.periods)
    due: dict[int, list[int]] = {}
    for fragment, (offset, period) in enumerate(zip(schedule.offsets, schedule.periods, strict=True)):
        for step in range((offset - 1) % period + 1, whole + 1, period):
            due.setdefault(step, []).append(fragment)
    nothing: list[int] = []

    def due_at(step: int) -> Sequence[int]:
        return due.get(step, nothing)

    wires = [wire_s] * schedule.num_fragments
    return Load(step_s, whole, due_at, wires, latency_s, method.delay)


# -- gossip -------------------------------------------------------------------------------------------


def _swaps(
    method: Method, num_parameters: float, swarm: UniformSwarm, latency_s: float
) -> tuple[Timing, float]:
    """The timing of gossip among equal peers, and the seconds of its longest exchange."""

    def took_s(group: int) -> float:
        return 8 * exchange_bytes(method, num_parameters, group) / swarm.exchange_bps + latency_s

    compute_s = method.sync_every * swarm.step_s
    longest_s = took_s(max(_group_sizes(method, swarm.peers)))
    load = Load(compute_s, 1, lambda step: [0], [longest_s])
    groups = _groups(method, swarm.peers, took_s, np.random.default_rng(0))
    busy = together(load, lambda: np.full(swarm.peers, compute_s), groups, _SWAPS)
    return Timing(compute_s, compute_s / busy - compute_s, 0.0), longest_s


def _group_sizes(method: Method, num_peers: int) -> set[int]:
    return {size for group_of in gossip_groups(method, num_peers) for size in Counter(group_of).values()}


def _groups(
    method: Method, num_peers: int, took_s: Callable[[int], float], rng: np.random.Generator
) -> Callable[[], Groups]:
    """What draws who exchanges with whom next: pairs at random, or the lines of one random grid along its
    next axis. ``took_s`` has the seconds of an exchange by the size of its group; alone there is none."""
    cycle = [np.array(group_of) for group_of in gossip_groups(method, num_peers)]
    grid = rng.permutation(num_peers)
    seconds = {1: 0.0} | {size: took_s(size) for size in _group_sizes(method, num_peers) if size > 1}
    turns = itertools.cycle(cycle)

    def next_groups() -> Groups:
        order = rng.permutation(num_peers) if method.group == "pair" else grid
        group_of = next(turns)[order]
        return Groups(group_of, np.array([seconds.get(size, 0.0) for size in np.bincount(group_of)]))

    return next_groups


# -- scenarios ----------------------------------------------------------------------------------------


def predict_scenario(scenario: Scenario) -> float:
    """Mean compute utilization of a timed scenario, by the same model: faults, joins and the beginning are
    left out, steps are drawn as they are described."""
    model = scenario.timed_model()
    assert model is not None, "only timed scenarios are predicted"
    method, peers = scenario.settings().method.resolved(), peers_of(scenario)
    cost = cost_of(method, model.parameters, len(peers))
    way_s = _way_s(scenario)

    def wire_s(group: int) -> float:
        sent = cost.exchanges * exchange_bytes(method, model.parameters, group)
        return max(_access_s(peers, sent), _lines_s(scenario, sent, group))

    whole_s = wire_s(len(peers))
    load = _load(method, 0.0, whole_s, _latency_s(method, model.parameters, len(peers), whole_s, way_s))
    rng = np.random.default_rng(scenario.seed)
    means = np.array([peer.step_time.step_s for peer in peers])
    jitter = np.array([peer.step_time.jitter for peer in peers])
    if method.pace == "by_speed":
        means = np.minimum(means, 1 / fastest_of(list(1 / means)))  # slower ones take fewer steps

    def steps() -> np.ndarray:
        return means * np.exp(jitter * rng.standard_normal(len(means)) - jitter**2 / 2)

    if not method.gossips:
        return together(load, steps)
    return together(
        load, steps, _groups(method, len(peers), lambda size: wire_s(size) + cost.ways * way_s, rng)
    )


def _access_s(peers: Sequence[Peer], size_bytes: float) -> float:
    return max(size_bytes / min(peer.access.up, peer.access.down) for peer in peers)


def _lines_s(scenario: Scenario, size_bytes: float, group: int) -> float:
    """Seconds of one exchange on the slowest shared line, or on the lossiest pair, if each of a group sends
    the others so many bytes."""
    counts: dict[str, int] = {}
    for each in scenario.peers:
        counts[each.region or ""] = counts.get(each.region or "", 0) + each.count
    others = sum(counts.values()) - 1
    slowest = 0.0
    links = [*(scenario.matrix.links() if scenario.matrix else ()), *scenario.links]
    for link in links:
        one, two = link.between
        if link.rate is not None:
            flows = counts.get(one, 0) * (counts.get(two, 0) - (one == two))
            # Of what one sends, each of the others gets the same; with gossip, on average.
            slowest = max(slowest, 8 * flows * size_bytes / others / link.rate)
    loss = 1 - (1 - max(each.loss for each in scenario.peers)) ** 2
    if loss:
        slowest = max(slowest, size_bytes / (group - 1) / mathis_rate(2 * _way_s(scenario), loss))
    return slowest


def _way_s(scenario: Scenario) -> float:
    """The longest way between two peers, with half of its jitter."""
    longest = max(group.latency * (1 + group.jitter / 2) for group in scenario.peers)
    links = [*(scenario.matrix.links() if scenario.matrix else ()), *scenario.links]
    return 2 * longest + max((link.rtt / 2 * (1 + link.jitter / 2) for link in links), default=0.0)
