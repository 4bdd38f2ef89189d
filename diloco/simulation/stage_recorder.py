"""Gathers what a report says of stages: who computed how long, what became of microbatches, bytes and rounds.

A watcher beside `recorder`, which knows the peers: the run's tokens are those that feeders saw settled, and
not the sum over stages. What a peer did is counted by its lives, for one that is moved trains another stage
in the next. Changes nothing of what it sees.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from diloco.pipeline.stage_loop import Step
from diloco.simulation.engine import Engine
from diloco.simulation.report.report import BUSY, Activity, Microbatches, SimulationReport, StageReport
from diloco.simulation.stage_worker import Did, StageWorker
from diloco.simulation.stages import StageShape
from diloco.simulation.worker import Worker
from peers.protocol.commands import Command
from peers.protocol.events import ContributionEnded, Fate
from peers.protocol.stage_work import Feed, How, MicrobatchEnded, StageCommand
from transport.effects import Effect

_MAX_STEPS = 200
"""Inner steps of feeders of which it is kept when they were."""


@dataclass(slots=True)
class _Done:
    """What one life of a peer did, or all of them at one stage."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    sent: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    tokens_applied: int = 0
    """Of each fragment."""

    def add(self, other: _Done) -> None:
        for activity, seconds in other.seconds.items():
            self.seconds[activity] += seconds
        self.sent += other.sent
        self.tokens += other.tokens
        self.tokens_applied += other.tokens_applied


@dataclass(slots=True)
class _Life:
    worker: StageWorker
    sent_before: Counter[str]
    """By earlier lives."""
    activity: Activity | None = None
    since_s: float = 0.0
    did: _Done = field(default_factory=_Done)


class StageRecorder:
    """Of one run whose model has these stages."""

    def __init__(self, shapes: Sequence[StageShape]) -> None:
        self._shapes = shapes
        self._stages = [StageReport(each.stage, each.num_parameters) for each in shapes]
        first = shapes[0]
        self.microbatches = Microbatches(tokens=first.tokens, stream_bytes=first.stream_bytes)
        self._partial: Counter[int] = Counter()
        self._lives: dict[str, list[_Life]] = defaultdict(list)
        """By peer, the newest last."""
        self._stepped_s: dict[str, float] = defaultdict(float)

    # -- as a watcher of stages ---------------------------------------------------------------

    def did(self, now: float, worker: StageWorker, did: Did) -> None:
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

    # -- as a watcher -------------------------------------------------------------------------

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        life = self._life(worker)
        _close(life, now)
        life.activity = activity

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        self._life(worker).did.tokens += worker.tokens_of(steps)

    def event(self, now: float, worker: Worker, event: object) -> None:
        if isinstance(event, ContributionEnded) and event.fate == Fate.APPLIED:
            self._life(worker).did.tokens_applied += event.tokens

    def command(self, now: float, worker: Worker, command: Command) -> None:
        """What is offered is the checks' affair."""

    def effect(self, now: float, name: str, effect: Effect) -> None:
        """What the host does is `recorder`'s affair."""

    def _life(self, worker: Worker) -> _Life:
        assert isinstance(worker, StageWorker), "the model is cut"
        lives = self._lives[worker.name]
        if not lives or lives[-1].worker is not worker:
            lives.append(_Life(worker, Counter(worker.process.sent)))
        return lives[-1]

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
            for number, did in self._by_stage(report.seconds, peer.name).items():
                stage = self._stages[number]
                stage.peers.append(peer.name)
                applied[number] += did.tokens_applied // engine.num_fragments
                for activity, seconds in sorted(did.seconds.items()):
                    stage.seconds[activity] = stage.seconds.get(activity, 0.0) + seconds
                for purpose, size in did.sent.items():
                    stage.sent[purpose] = stage.sent.get(purpose, 0) + size
                busy = _busy(did.seconds)
                ideal[number] += did.tokens / busy * sum(did.seconds.values()) if busy else 0.0
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

    def _by_stage(self, now: float, peer: str) -> dict[int, _Done]:
        """What a peer did at each stage. A life that was told none counts to the one before."""
        found: dict[int, _Done] = {}
        lives, stage = self._lives[peer], None
        for index, life in enumerate(lives):
            _close(life, now)
            until = lives[index + 1].sent_before if lives[index + 1 :] else life.worker.process.sent
            life.did.sent = until - life.sent_before
            stage = life.worker.stage if life.worker.shape is not None else stage
            if stage is not None:
                found.setdefault(stage, _Done()).add(life.did)
        return found


def _close(life: _Life, now: float) -> None:
    """What it did until now is over."""
    if life.activity is not None and now > life.since_s:
        life.did.seconds[life.activity] += now - life.since_s
    life.since_s = now


def _busy(seconds: dict[str, float]) -> float:
    return sum(seconds.get(activity, 0.0) for activity in BUSY)
