"""Runs a scenario: builds its swarm, lets its faults happen, and hands back a report.

Owns when a run has ended, how coarse phantoms are cut, and the checks at the end. The same scenario and seed
give the same report byte for byte.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from diloco.extras import require
from diloco.methods.spec import Method
from diloco.pipeline.stage_loop import StageLoop
from diloco.rules import rules_of, wait_s
from diloco.simulation.engine import Engine
from diloco.simulation.faults import Fault, end_s, faults_of
from diloco.simulation.honest import HonestPeers
from diloco.simulation.identities import HOST, key_of
from diloco.simulation.invariants import Invariants
from diloco.simulation.pace import Peer
from diloco.simulation.phantom import PhantomReplica, fragment_sizes, phantom_limits
from diloco.simulation.recorder import Recorder
from diloco.simulation.report.report import Activity, RoleReport, SimulationReport
from diloco.simulation.scenario import Scenario, load_scenario, parse_scenario
from diloco.simulation.staged_run import MAX_SPANS, staged_run_of
from diloco.simulation.topology import access_of, peers_of, route_of
from diloco.simulation.vectors import VectorReplica, computed, vector_limits
from diloco.simulation.worker import Trainer, Worker
from peers.node import Node
from peers.protocol.commands import Command
from peers.protocol.traces import CommittedTrace
from transport.effects import Effect
from transport.limits import LIMITS, Limits

_COSTS_NOTHING = ("leave", "degrade", "slow")
"""Nobody has to come back from these."""
_UNDONE = {
    "crash": "restart",
    "freeze": "thaw",
    "partition": "heal",
    "degrade": "link restored",
    "slow": "as fast as before",
    "cut": "link mended",
}


def simulate(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    *,
    seed: int | None = None,
    faults: Sequence[Fault] | None = None,
    make_node: Callable[..., Node] = Node,
    make_loop: Callable[..., StageLoop] = StageLoop,
) -> SimulationReport:
    """Run one scenario: a `Scenario`, plain dicts of one, or the path of a TOML file. ``seed`` replaces the
    scenario's, ``faults`` its events (see `faults.faults_of`), ``make_node`` the class of nodes and
    ``make_loop`` that of stage loops (to test protocols). Raises `SettingsError` for a scenario that cannot
    be run."""
    if isinstance(scenario, (str, Path)):
        scenario = load_scenario(Path(scenario))
    elif not isinstance(scenario, Scenario):
        scenario = parse_scenario(scenario)
    if seed is not None:
        scenario = scenario.model_copy(update={"seed": seed})
    run = ScenarioRun(scenario, faults_of(scenario) if faults is None else faults, make_node, make_loop)
    report = run.run()
    without = scenario.honest()
    if without is not None:
        alone = ScenarioRun(without, [], make_node)
        run.compare(report, alone, alone.run())
    return report


class ScenarioRun:
    """One run of one scenario; a watcher of it, since some faults come with a round."""

    def __init__(
        self,
        scenario: Scenario,
        faults: Sequence[Fault],
        make_node: Callable[..., Node],
        make_loop: Callable[..., StageLoop] = StageLoop,
    ) -> None:
        self._scenario = scenario
        settings = scenario.settings()
        method = settings.method.resolved()
        peers = peers_of(scenario)
        self.staged = staged_run_of(scenario, peers, make_loop=make_loop, faultless=not faults)
        limits, make_trainer = (
            self.staged.trained()
            if self.staged is not None
            else _what_is_trained(scenario, len(peers), peers)
        )
        rules, patience_s = rules_of(settings), wait_s(settings)
        self.recorder = Recorder() if self.staged is None else Recorder(MAX_SPANS)
        self.invariants = Invariants(method, rules, 5 * patience_s, key_of)
        self.invariants.with_role = frozenset(peer.name for peer in peers if peer.role)
        self.engine = Engine(
            settings,
            peers,
            make_trainer,
            host=access_of(scenario.host),
            limits=limits,
            watchers=[self.recorder, self.invariants, self],
            make_node=make_node,
            make_worker=self.staged.make_worker if self.staged is not None else Worker,
            recompute=partial(computed, limits.payload_bytes) if scenario.mode == "vectors" else None,
            route=route_of(scenario),
            trace_frames=False,
        )
        self.recorder.attach(self.engine)
        self.honest = HonestPeers(self.engine.roles, [peer.name for peer in peers])
        self.engine.watchers.append(self.honest)
        if self.staged is not None:
            self.staged.attach(self.engine)
            self.engine.watchers += self.staged.watchers
        self._settings, self._method, self._rules, self._peers = settings, method, rules, peers
        self._patience_s = patience_s
        self._by_round: dict[int, list[Fault]] = {}
        self._disturbed_s = 0.0
        """When the last fault happened or was over."""
        self._over = False
        self._undone = 0
        """Faults that are yet to come or to be undone."""
        for fault in faults:
            self._undone += 1
            if fault.at_s is not None:
                self.engine.net.at(fault.at_s, partial(self._inject, fault))
            else:
                self._by_round.setdefault(fault.round or 0, []).append(fault)
        self.engine.begin()
        self._fire_for_round()

    def run(self) -> SimulationReport:
        """Until everyone is done or the scenario's end."""
        end = end_s(self._scenario)
        with _rare_collections():
            finished = self.engine.run(end, lambda: self._over)
        now = self.engine.net.now
        if not finished:
            self._check_progress(now)
        report = self.recorder.finish(
            now,
            SimulationReport(
                scenario=self._scenario.name,
                about=self._scenario.about,
                seed=self._scenario.seed,
                mode=self._scenario.mode,
                method=self._method.name,
                num_parameters=self._num_parameters(),
                ended="the run is finished" if finished else "the scenario's end",
                num_events=self.engine.net.num_events,
                trace_hash=self.engine.net.trace_hash(),
                violations=self.invariants.violations,
            ),
        )
        if self.staged is not None:
            self.staged.finish(report, self.engine)
        return report

    def compare(self, report: SimulationReport, alone: ScenarioRun, without: SimulationReport) -> None:
        """Hold the honest peers of this run against those of the one without peers that have a role, and tell
        what these did."""
        honest, rate = self.honest, alone.honest.rate(without.seconds)
        honest.compare(report.seconds, honest.rate(report.seconds), rate)
        alone_s = without.seconds
        honest.compare(report.seconds, honest.work(report.seconds), alone.honest.work(alone_s), "train")
        report.violations += honest.violations
        report.honest_rate, report.honest_rate_alone = honest.rate(report.seconds), rate
        report.num_forged, report.num_set_aside = honest.num_forged, honest.num_set_aside
        for name, role in self.engine.roles.items():
            if "~" not in name:
                deeds, put_out = dict(sorted(role.deeds.items())), honest.proved.get(name, "")
                report.roles.append(RoleReport(name, role.name, deeds, put_out))

    def _num_parameters(self) -> int:
        model = self._scenario.timed_model()
        if model is not None:
            return round(model.parameters)
        replica: Any = next(iter(self.engine.workers.values())).trainer.replica
        return sum(replica.num_elements(f) for f in range(self._method.num_fragments))

    def _is_done(self) -> bool:
        coordinator = self.engine.host.coordinator
        if coordinator is None or not coordinator.finished:
            return False
        # Whoever means harm may stay away for long: nobody waits for it.
        workers = (w for w in self.engine.workers.values() if w.name not in self.engine.roles)
        return all(w.session.finished or not w.runs for w in workers)

    def _check_progress(self, now: float) -> None:
        """L1: commits go on, some time after the last disturbance, if enough members are there."""
        net, seen = self.engine.net, self.invariants
        living = [w for w in self.engine.workers.values() if w.runs]
        if self.staged is not None:
            by_stage = [[w for w in living if w.stage == each.stage] for each in self.staged.shapes]
            living = min(by_stage, key=len)
        if len(living) < self._rules.min_peers or not net.can_run(key_of(HOST)) or not seen.num_commits:
            return
        slowest = max(peer.step_time.step_s for peer in self._peers) * self._scenario.works_per_step
        rounds_s = 3 * self._method.sync_every * slowest + 20 * self.recorder.longest_exchange_s
        since = max(seen.last_commit_s, self._disturbed_s)
        if not self._undone and now - since > rounds_s + 5 * self._patience_s:
            seen.violations.append(
                f"invariant L1 at {now:.3f} s: {len(living)} members live and nothing was committed for"
                f" {now - since:.1f} s"
            )

    # -- faults -------------------------------------------------------------------------------

    def _fire_for_round(self) -> None:
        for number in [n for n in self._by_round if n <= self.invariants.num_commits]:
            for fault in self._by_round.pop(number):
                self.engine.net.at(fault.after_s, partial(self._inject, fault))

    def _inject(self, fault: Fault) -> None:
        self._undone -= 1
        engine, now = self.engine, self.engine.net.now
        self._disturbed_s = now
        if fault.do == "partition":
            others = [name for name in (HOST, *engine.peers) if name not in fault.peers]
            groups = [[key_of(n) for n in others], [key_of(n) for n in fault.peers]]
            engine.net.partition(groups)
        struck = [name for name in fault.peers if self._do(fault, name)]
        for name in struck if fault.do == "cut" else ():
            for other in fault.others:
                engine.net.cut(key_of(name), key_of(other))
        for name in struck:
            returns = fault.do in ("join", "restart")
            text = str(fault).split(": ", 1)[1]
            if returns:
                self.recorder.returned(now, fault.do, name)
            else:
                self.recorder.injected(now, text, name, costs=fault.do not in _COSTS_NOTHING)
        if fault.lasts_s is not None and struck:
            self._undone += 1
            engine.net.at(fault.lasts_s, partial(self._undo, fault, struck))

    def _do(self, fault: Fault, name: str) -> bool:
        """Carry a fault out on one peer; False if it makes no sense for it now."""
        engine = self.engine
        runs = name == HOST or (name in engine.workers and engine.workers[name].runs)
        match fault.do:
            case "join" | "restart":
                if name != HOST and not runs:
                    engine.start(name)
                    return True
                if name == HOST and not engine.net.can_run(key_of(HOST)):
                    engine.start_host()
                    return True
                return False
            case "crash" if runs:
                engine.crash(name)
            case "freeze" if runs:
                engine.freeze(name)
            case "leave" if runs and name != HOST:
                engine.leave(name)
            case "degrade" if runs:
                engine.net.degrade(key_of(name), fault.factor)
            case "slow" if runs and name != HOST:
                engine.slow(name, fault.factor)
            case "partition" | "cut":
                return True
            case _:
                return False
        return True

    def _undo(self, fault: Fault, struck: Sequence[str]) -> None:
        self._undone -= 1
        engine, now = self.engine, self.engine.net.now
        self._disturbed_s = now
        if fault.do == "partition":
            engine.net.heal()
        for name in struck:
            if fault.do == "crash":
                if name == HOST and not engine.net.can_run(key_of(HOST)):
                    engine.start_host()
                elif name != HOST:
                    engine.start(name)
            elif fault.do == "freeze":
                engine.thaw(name)
            elif fault.do == "degrade" and key_of(name) in engine.net.peers:
                engine.net.degrade(key_of(name), 1.0)
            elif fault.do == "slow":
                engine.slow(name, 1.0)
            elif fault.do == "cut":
                for other in fault.others:
                    engine.net.mend(key_of(name), key_of(other))
            self.recorder.returned(now, _UNDONE[fault.do], name)

    # -- as a watcher -------------------------------------------------------------------------

    def effect(self, now: float, name: str, effect: Effect) -> None:
        if self._by_round and isinstance(effect, CommittedTrace):
            self._fire_for_round()

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        self._over = self._over or self._is_done()

    def event(self, now: float, worker: Worker, event: object) -> None:
        if self._by_round and self._method.gossips:
            self._fire_for_round()
        self._over = self._over or self._is_done()

    def command(self, now: float, worker: Worker, command: Command) -> None:
        """Others record it."""

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        """Others record it."""


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A simulation makes much and hardly any cycles: looking for them takes a tenth of its time."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _what_is_trained(
    scenario: Scenario, num_peers: int, peers: Sequence[Peer]
) -> tuple[Limits, Callable[[Peer, int], Trainer]]:
    model, method = scenario.timed_model(), scenario.settings().method.resolved()
    if model is None:
        require("train", 'a scenario of mode "trained"')
        from diloco.simulation.tensor_trainer import trainers_of  # torch is needed for nothing else here

        return LIMITS, trainers_of(scenario.settings())
    parameters = round(model.parameters)
    if scenario.mode == "vectors":
        return _vectors(method, parameters, model.layers, num_peers)
    limits = phantom_limits(method, parameters, model.layers, num_peers)

    def make(peer: Peer, life: int) -> Trainer:
        name = f"{peer.name} in life {life}"
        replica = PhantomReplica(method, parameters, model.layers, name, limits.payload_bytes)
        return Trainer(replica, replica.elements)

    return limits, make


def _vectors(
    method: Method, parameters: int, layers: int | None, num_peers: int
) -> tuple[Limits, Callable[[Peer, int], Trainer]]:
    limits, sizes = vector_limits(parameters, num_peers), fragment_sizes(method, parameters, layers)

    def make(peer: Peer, life: int) -> Trainer:
        replica = VectorReplica(peer.name, sizes, method.sync_every, limits.payload_bytes)
        return Trainer(replica, replica.sizes)

    return limits, make
