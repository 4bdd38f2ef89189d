"""From a method, a model and links to a load of the timeline's model: what is moved, and over which line.

Owns the arithmetic of the direct exchange on access links, shared lines and round trips. Needs no torch. A
test holds it within 5 % of what `diloco simulate` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diloco.methods.cost import cost_of, element_bytes, mean_bytes, state_vectors
from diloco.methods.schedule import Schedule
from diloco.methods.spec import Method
from diloco.planning.timeline import Load, Timing, steady, together
from diloco.simulation.pace import Peer
from diloco.simulation.scenario import Scenario
from diloco.simulation.topology import peers_of
from transport.simnet.routes import mathis_rate

_ADAM_BYTES = 16
"""Of a parameter on the device while it trains in fp32: itself, its gradient, AdamW's moments."""


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
    """Of one exchange, from the first offer to the commit."""

    @property
    def utilization(self) -> float:
        return self.timing.utilization

    @property
    def bytes_per_day(self) -> float:
        """Sent by a peer."""
        return self.bytes_per_period / self.timing.period_s * 86_400


def predict(method: Method, num_parameters: float, swarm: UniformSwarm) -> Prediction:
    """What `method` does on equal peers."""
    cost = cost_of(method, num_parameters, swarm.peers)
    wire_s = 8 * cost.per_exchange / min(swarm.up_bps, swarm.down_bps)
    timing = steady(_load(method, swarm.step_s, wire_s, _trips(method) * swarm.rtt_s / 2))
    device, host = memory(method, num_parameters, swarm.peers)
    exchange_s = wire_s + _trips(method) * swarm.rtt_s / 2
    return Prediction(timing, cost.per_step * method.sync_every, device, host, exchange_s)


def memory(method: Method, num_parameters: float, num_peers: int) -> tuple[float, float]:
    """Bytes on the device and on the host of a worker that trains in fp32 with AdamW: parameters, gradients
    and moments, and a fragment on its way; the outer state, residuals, what is in flight, others' parts."""
    fragment = num_parameters / method.num_fragments
    feedback = 4 * num_parameters if method.error_feedback != "none" else 0
    wire = fragment * (element_bytes(method.codec, method) + mean_bytes(method, num_peers))
    host = 4 * num_parameters * state_vectors(method) + feedback + 4 * fragment + 2 * wire
    return _ADAM_BYTES * num_parameters + 4 * fragment, host


def _trips(method: Method) -> int:
    """Ways between peers, one after the other, that a round takes beside its bytes: ready, open, a part, a
    mean, done, committed; without a coordinator only a part and a mean."""
    return 2 if method.gossips else 6


def _load(method: Method, step_s: float, wire_s: float, latency_s: float) -> Load:
    schedule = Schedule.of(method)
    due: dict[int, list[int]] = {}
    for fragment, (offset, period) in enumerate(zip(schedule.offsets, schedule.periods, strict=True)):
        if period == method.sync_every:  # moments move less often, and are left out here
            due.setdefault((offset - 1) % period + 1, []).append(fragment)
    nothing: list[int] = []

    def due_at(step: int) -> Sequence[int]:
        return due.get(step, nothing)

    wires = [wire_s] * schedule.num_fragments
    return Load(step_s, method.sync_every, due_at, wires, latency_s, method.delay)


# -- scenarios ----------------------------------------------------------------------------------------


def predict_scenario(scenario: Scenario) -> float:
    """Mean compute utilization of a timed scenario, by the same model: faults, joins and the beginning are
    left out, steps are drawn as they are described."""
    model = scenario.timed_model()
    assert model is not None, "only timed scenarios are predicted"
    method, peers = scenario.settings().method.resolved(), peers_of(scenario)
    cost = cost_of(method, model.parameters, len(peers))
    wire_s = max(_access_s(peers, cost.per_exchange), _lines_s(scenario, method, model.parameters))
    load = _load(method, 0.0, wire_s, _latency_s(scenario, method))
    rng = np.random.default_rng(scenario.seed)
    means = np.array([peer.step_time.step_s for peer in peers])
    jitter = np.array([peer.step_time.jitter for peer in peers])
    if method.pace == "by_speed":
        means = np.full_like(means, means.min())  # slower ones take fewer steps

    def steps() -> np.ndarray:
        return means * np.exp(jitter * rng.standard_normal(len(means)) - jitter**2 / 2)

    size = 2 if method.group == "pair" else method.group_size

    def groups() -> list[np.ndarray]:
        order = rng.permutation(len(means))
        return [order[i : i + size] for i in range(0, len(order), size)]

    partners: Callable[[], Sequence[np.ndarray]] | None = groups if method.gossips else None
    return together(load, steps, partners)


def _access_s(peers: Sequence[Peer], size_bytes: float) -> float:
    return max(size_bytes / min(peer.access.up, peer.access.down) for peer in peers)


def _lines_s(scenario: Scenario, method: Method, num_parameters: float) -> float:
    """Seconds of one exchange on the slowest shared line, or on the lossiest pair."""
    counts: dict[str, int] = {}
    for group in scenario.peers:
        counts[group.region or ""] = counts.get(group.region or "", 0) + group.count
    total = sum(counts.values())
    fragment = num_parameters / method.num_fragments
    each = element_bytes(method.codec, method) + mean_bytes(method, total)
    pair_bytes = fragment * each / total
    slowest = 0.0
    links = [*(scenario.matrix.links() if scenario.matrix else ()), *scenario.links]
    for link in links:
        one, two = link.between
        if link.rate is not None:
            flows = counts.get(one, 0) * (counts.get(two, 0) - (one == two))
            slowest = max(slowest, 8 * flows * pair_bytes / link.rate)
    loss = 1 - (1 - max(group.loss for group in scenario.peers)) ** 2
    if loss:
        slowest = max(slowest, pair_bytes / mathis_rate(2 * _way_s(scenario), loss))
    return slowest


def _latency_s(scenario: Scenario, method: Method) -> float:
    return _trips(method) * _way_s(scenario)


def _way_s(scenario: Scenario) -> float:
    """The longest way between two peers, with half of its jitter."""
    longest = max(group.latency * (1 + group.jitter / 2) for group in scenario.peers)
    links = [*(scenario.matrix.links() if scenario.matrix else ()), *scenario.links]
    return 2 * longest + max((link.rtt / 2 * (1 + link.jitter / 2) for link in links), default=0.0)
