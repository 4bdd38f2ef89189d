"""What a run's settings mean to its coordinator and its outer loops. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diloco.methods.cost import wire_element_bytes
from diloco.methods.registry import make
from diloco.methods.schedule import Schedule
from diloco.methods.spec import Method
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.settings import RunSettings
from peers.coordinator.judgement import Judge
from peers.coordinator.rules import Rules
from peers.protocol.placing import Wiring
from peers.protocol.profile import Matching
from transport.collectives.reducer import Part
from transport.effects import Payload


def rules_of(settings: RunSettings) -> Rules:
    """The coordinator's rules."""
    run, method = settings.run, settings.method.resolved()
    returned = method.codec if method.mean_codec == "same" else method.mean_codec
    return Rules(
        settings=settings.digest(),
        name=run.name,
        min_peers=run.min_peers,
        rounds=num_commits(settings),
        failure_timeout_s=run.failure_timeout_s,
        grace_s=method.quorum_grace_s if method.quorum else run.grace_s,
        outlier_factor=run.outlier_factor,
        max_influence=run.max_influence,
        part_growth=WIRE_FORMATS[method.codec].part_growth(method.keep, method.value_bits),
        mean_growth=WIRE_FORMATS[returned].mean_growth(),
        element_bytes=wire_element_bytes(method),
        quorum=method.quorum,
        buffers_fragment=buffers_fragment(settings),
        stages=settings.pipeline.stages,
        wiring=Wiring(settings.pipeline.wiring),
        copies=settings.checkpoint.copies,
        save_every=settings.checkpoint.every,
        gossips=method.gossips,
        paces=method.pace == "by_speed",
        overlap=min(1.0, method.delay / method.sync_every),
    )


@dataclass(frozen=True, slots=True)
class _JudgeRow:
    """Where the class is that decodes chunks: it needs torch, which a host need not have."""

    made_by: str = "diloco.outer.judge:CodecJudge"
    options: tuple[str, ...] = ("method",)


class JudgeOnDemand:
    """Decodes what a host is shown, with torch, which is imported when the first judgement is due. Without it
    nothing can be told."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._judge: Judge | None = None

    def fault(self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None) -> str | None:
        """What is wrong with a chunk, as `peers.coordinator.judgement.Judge` says."""
        judge = self._found()
        return judge.fault(fragment, payload, num_elements, num_parts) if judge else None

    def square(
        self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
    ) -> float | None:
        """How long it is, squared, as `Judge` says."""
        judge = self._found()
        return judge.square(fragment, payload, num_elements, num_parts) if judge else None

    def deviation(
        self, fragment: int, parts: Sequence[Part], mean: Payload, num_elements: int
    ) -> tuple[float, float, float] | None:
        """How far a mean is from the one that these parts make, as `Judge` says."""
        judge = self._found()
        return judge.deviation(fragment, parts, mean, num_elements) if judge else None

    def _found(self) -> Judge | None:
        if self._judge is None:
            try:
                self._judge = make(_JudgeRow(), method=self._method)
            except ImportError:
                return None
        return self._judge


def judge_of(settings: RunSettings) -> Judge:
    """Who tells the coordinator whether a chunk can be used."""
    return JudgeOnDemand(settings.method.resolved())


def matching_of(settings: RunSettings) -> Matching | None:
    """How gossip groups are found; None for a method with rounds."""
    method = settings.method.resolved()
    if method.group == "all":
        return None
    run, each = settings.run, wire_element_bytes(method)
    return Matching(method.group, run.seed, method.group_size, run.min_peers, each)


def buffers_fragment(settings: RunSettings) -> int:
    """The fragment whose commits are no rounds, but the mean of a model's buffers; -1 if the run has none."""
    method = settings.method.resolved()
    return method.buffers_fragment if method.buffers == "mean" else -1


def num_commits(settings: RunSettings) -> int:
    """Commits after which the run is done: every fragment moves ``run.rounds`` times."""
    return Schedule.of(settings.method.resolved()).num_commits(settings.run.rounds)


def wait_s(settings: RunSettings) -> float:
    """Seconds that a worker waits for a round that does not open, before it trains on."""
    return settings.run.grace_s + 2 * settings.run.failure_timeout_s
