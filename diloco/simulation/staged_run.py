"""What a simulated run of a model in stages has beside others: workers that know stages, and who watches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from diloco.pipeline.stage_loop import StageLoop
from diloco.rules import rules_of
from diloco.simulation.engine import Engine
from diloco.simulation.pace import Peer
from diloco.simulation.phantom import PhantomReplica, phantom_limits
from diloco.simulation.report.report import SimulationReport
from diloco.simulation.scenario import Scenario
from diloco.simulation.stage_checks import StageChecks
from diloco.simulation.stage_recorder import StageRecorder
from diloco.simulation.stage_worker import StageWatcher, StageWorker, Staging
from diloco.simulation.stages import StageShape, shapes_of, with_streams
from diloco.simulation.worker import Trainer, Watcher, Worker
from transport.limits import Limits

MAX_SPANS = 4000
"""Of a replica, that a report keeps one by one."""


class StagedRun:
    """Of one scenario with several stages."""

    def __init__(
        self, scenario: Scenario, peers: Sequence[Peer], make_loop: Callable[..., StageLoop], faultless: bool
    ) -> None:
        settings = scenario.settings()
        method = settings.method.resolved()
        self.shapes = shapes_of(scenario)
        largest = max(self.shapes, key=lambda shape: shape.num_parameters)
        replicas = max(rules_of(settings).fewest, math.ceil(len(peers) / len(self.shapes)) + 1)
        bounds = phantom_limits(method, largest.num_parameters, largest.num_layers, replicas)
        everyone = phantom_limits(method, largest.num_parameters, largest.num_layers, len(peers))
        bounds = replace(
            bounds,
            buffer_bytes=everyone.buffer_bytes,
            members=everyone.members,
            gossip_members=everyone.gossip_members,
        )
        self.limits = with_streams(bounds, largest)
        piece_bytes = self.limits.payload_bytes

        def trainer_of(peer: Peer, life: int, shape: StageShape) -> Trainer:
            name = f"{peer.name} in life {life}"
            replica = PhantomReplica(method, shape.num_parameters, shape.num_layers, name, piece_bytes)
            return Trainer(replica, replica.elements)

        self.recorder = StageRecorder(self.shapes)
        self.checks = StageChecks(self.shapes, faultless)
        watchers: list[StageWatcher] = [self.recorder, self.checks]
        self._staging = Staging(self.shapes, trainer_of, watchers, self._rejoin, make_loop)
        self.make_worker: Callable[..., Worker] = partial(StageWorker, staging=self._staging)
        self.watchers: list[Watcher] = [self.checks, self.recorder]

    def attach(self, engine: Engine) -> None:
        """Before anything happens."""
        self._engine = engine

    def _rejoin(self, name: str) -> None:
        self._engine.start(name)

    def trained(self) -> tuple[Limits, Callable[[Peer, int], Trainer]]:
        """Bounds, and what a worker begins with that does not know its stage yet."""
        staging = self._staging
        return self.limits, lambda peer, life: staging.make_trainer(peer, life, staging.shapes[0])

    def finish(self, report: SimulationReport, engine: Engine) -> None:
        """Fill in what is about stages, and say what did not hold."""
        self.recorder.finish(report, engine)
        self.checks.finish(report.seconds, engine, self.recorder.microbatches)
        report.violations += self.checks.violations


def staged_run_of(scenario: Scenario, peers: Sequence[Peer], **given: Any) -> StagedRun | None:
    """None of a model that is not cut."""
    return StagedRun(scenario, peers, **given) if scenario.settings().pipeline.stages > 1 else None
