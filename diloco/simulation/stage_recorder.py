"""Gathers what a report says of stages: who computed how long, what became of microbatches, bytes and rounds.

A watcher beside `recorder`, which knows the peers: the run's tokens are those that feeders saw settled, and
not the sum over stages. Changes nothing of what it sees.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from diloco.pipeline.stage_loop import Step
from diloco.simulation.engine import Engine
from diloco.simulation.report.report import BUSY, Microbatches, SimulationReport, StageReport
from diloco.simulation.stage_worker import Did, StageWorker
from diloco.simulation.stages import StageShape
from peers.protocol.stage_work import Feed, How, MicrobatchEnded, StageCommand

_MAX_STEPS = 200
"""Inner steps of feeders of which it is kept when they were."""


class StageRecorder:
    """Of one run whose model has these stages."""

    def __init__(self, shapes: Sequence[StageShape]) -> None:
        self._shapes = shapes
        self._stages = [StageReport(each.stage, each.num_parameters) for each in shapes]
        first = shapes[0]
        self.microbatches = Microbatches(tokens=first.tokens, stream_bytes=first.stream_bytes)
        self._partial: Counter[int] = Counter()
        self._stage_of: dict[str, int] = {}
        self._stepped_s: dict[str, float] = defaultdict(float)

    # -- as a watcher of stages ---------------------------------------------------------------

    def did(self, now: float, worker: StageWorker, did: Did) -> None:
        self._stage_of[worker.name] = worker.stage
        if not isinstance(did.work, Step):
            return
        stage, count = self._stages[worker.stage], len(did.work.microbatches)
        stage.steps += 1
        stage.short_steps += count < self._shapes[worker.stage].quota
        stage.counted += count
        steps = self.microbatches.steps
        if not worker.stage:
            if len(steps) < _MAX_STEPS:
                steps.append((worker.name, self._stepped_s[worker.name], now))
            self._stepped_s[worker.name] = now

    def said(self, now: float, worker: StageWorker, command: StageCommand, taken: bool) -> None:
        self.microbatches.fed += taken and isinstance(command, Feed)

    def heard(self, now: float, worker: StageWorker, event: object) -> None:
        if not isinstance(event, MicrobatchEnded):
            return
        counts = self.microbatches
        match event.how:
            case How.SETTLED:
                counts.settled += 1
            case How.PARTIAL:
                counts.partial += 1
                self._partial[event.stage] += 1
            case How.LOST:
                counts.lost += 1
        if event.how is not How.SETTLED:
            cause = event.cause.name.lower()
            counts.by_cause[cause] = counts.by_cause.get(cause, 0) + 1

    # -- the end ------------------------------------------------------------------------------

    def finish(self, report: SimulationReport, engine: Engine) -> None:
        """Fill in what was seen; after `Recorder.finish`."""
        counts = self.microbatches
        ends = engine.workers.values()
        counts.behind_bulk_s = max((each.process.behind_bulk_ns / 1e9 for each in ends), default=0.0)
        counts.by_cause = dict(sorted(counts.by_cause.items()))
        ideal = [0.0] * len(self._stages)
        applied = [0] * len(self._stages)
        for peer in report.peers:
            number = self._stage_of.get(peer.name)
            if number is None:
                continue
            stage = self._stages[number]
            stage.peers.append(peer.name)
            applied[number] += peer.tokens_applied
            for activity, seconds in sorted(peer.seconds.items()):
                stage.seconds[activity] = stage.seconds.get(activity, 0.0) + seconds
            for purpose, size in peer.sent.items():
                stage.sent[purpose] = stage.sent.get(purpose, 0) + size
            busy = _busy(peer.seconds)
            ideal[number] += peer.tokens / busy * sum(peer.seconds.values()) if busy else 0.0
        for stage in self._stages:
            lifetime = sum(stage.seconds.values())
            stage.utilization = _busy(stage.seconds) / lifetime if lifetime else 0.0
            stage.partial = self._partial[stage.stage]
            stage.rounds = sum(each.stage == stage.stage for each in report.rounds)
            stage.sent = dict(sorted(stage.sent.items()))
        report.stages, report.microbatches = self._stages, counts
        report.tokens = counts.settled * counts.tokens
        report.tokens_applied = min(applied)
        report.tokens_per_s = report.tokens / report.seconds if report.seconds else 0.0
        report.ideal_tokens_per_s = min(ideal) / report.seconds if report.seconds else 0.0


def _busy(seconds: dict[str, float]) -> float:
    return sum(seconds.get(activity, 0.0) for activity in BUSY)
