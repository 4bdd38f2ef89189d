"""Methods compared at equal tokens: the same model from the same start, many workers in one process.

Owns one run per method and seed, its curve, and the two baselines. Every method runs as it does between
machines, on a simulated network without cost (`simulation.virtual_training`), so that only its learning is
seen; what is evaluated is the outer parameters, and a single replica beside them. Tables and plots are in
`comparison.report`.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diloco.errors import UserError
from diloco.methods.presets import PRESETS
from diloco.models.gpt import GPT
from diloco.models.inner_optimizers import inner_optimizers
from diloco.models.text import Text, load_text
from diloco.outer.model_tensors import ModelTensors
from diloco.outer.replica import TensorReplica
from diloco.recipe import InnerSteps, evaluation
from diloco.settings import RunSettings, Train, parse_settings
from diloco.simulation.tensor_trainer import trainer_of
from diloco.simulation.virtual_training import SimulatedTraining
from diloco.simulation.worker import Trainer, Worker

BASELINES = ("data_parallel", "single")
"""What is no method: the gradient averaged at each step, and one worker alone."""
_EVALUATION_BATCHES = 32


@dataclass(frozen=True, slots=True)
class Budget:
    """What every run gets."""

    workers: int = 4
    tokens: int = 2_000_000
    """Over all workers together."""
    seeds: tuple[int, ...] = (0,)
    layers: int = 3
    heads: int = 4
    width: int = 64
    context: int = 64
    batch_size: int = 16
    """Sequences per inner step and worker."""
    inner_lr: float = 2e-3
    sync_every: int | None = None
    """H for every method that does not name its own; None leaves each preset's."""
    start_tokens: int = 0
    """Tokens of data-parallel training that the common start has had: DiLoCo (arXiv 2311.08105) begins with a
    model that was trained for more than a quarter of its steps."""
    points: int = 10
    """Evaluations along a run."""
    device: str = "cpu"
    data: Path | None = None

    @property
    def tokens_per_step(self) -> int:
        """Of one worker."""
        return self.batch_size * self.context

    @property
    def steps(self) -> int:
        """Inner steps of each worker."""
        return max(1, self.tokens // (self.workers * self.tokens_per_step))


@dataclass(slots=True)
class RunResult:
    """One run."""

    method: str
    seed: int
    loss: float
    """Validation loss of the outer parameters in nats per byte (gossip: mean over replicas)."""
    replica_loss: float
    """Of one worker's local parameters at the end."""
    bytes_per_worker: float
    exchanges: int
    """Commits or swaps that a worker saw."""
    waited_s: float
    """Seconds per worker that training waited, of virtual time with one second per step."""
    variance: float
    """Mean squared distance of replicas from their mean, over the squared norm of that; 0 with rounds."""
    seconds: float = 0.0
    """That this run took here."""
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """Tokens of all workers, bytes per worker, loss."""


@dataclass(slots=True)
class Comparison:
    """All runs."""

    budget: Budget
    parameters: int
    results: list[RunResult]

    def methods(self) -> list[str]:
        return list(dict.fromkeys(result.method for result in self.results))

    def of(self, method: str) -> list[RunResult]:
        return [result for result in self.results if result.method == method]

    def mean_loss(self, method: str) -> tuple[float, float]:
        """Mean over seeds, and their standard deviation."""
        losses = [result.loss for result in self.of(method)]
        return statistics.fmean(losses), statistics.stdev(losses) if len(losses) > 1 else 0.0

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        budget = asdict(self.budget) | {"data": str(self.budget.data) if self.budget.data else None}
        return {"budget": budget, "parameters": self.parameters, "results": [asdict(r) for r in self.results]}


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """``name`` or ``name:part=value,part=value`` as the preset and its overrides; points of a setting that
    changes are written ``outer_lr=0:0.1/20:0.7``. Raises `UserError`."""
    name, _, rest = text.partition(":")
    if name not in PRESETS and name not in BASELINES:
        names = ", ".join((*BASELINES, *PRESETS))
        raise UserError(f"method {name!r} is unknown: choose from {names}")
    overrides: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{part!r} is no override: write {name}:part=value,part=value")
        overrides[key] = _value(value)
    return name, overrides


def compare(
    methods: Sequence[str], budget: Budget, *, on_result: Callable[[RunResult], None] | None = None
) -> Comparison:
    """Run each of ``methods`` (see `parse_method`) with each seed. Deterministic on one machine, but for
    seconds. Raises `UserError` for what cannot be run."""
    parsed = {text: parse_method(text) for text in methods}
    settings = {text: _settings(*found, budget) for text, found in parsed.items()}
    swarms = [settings[text] for text, (name, _) in parsed.items() if name not in BASELINES]
    budget = _in_whole_rounds(budget, [each.method.resolved().sync_every for each in swarms])
    text, results = load_text(budget.data), []
    for seed, name in itertools.product(budget.seeds, methods):
        if name == methods[0]:
            start = _start(settings[name], seed, budget, text)
        run = settings[name].model_copy(update={"run": settings[name].run.model_copy(update={"seed": seed})})
        baseline = parsed[name][0] if parsed[name][0] in BASELINES else ""
        began = time.perf_counter()
        result = _baseline(name, baseline, run, start) if baseline else _swarm(name, run, start)
        result.seconds = time.perf_counter() - began
        results.append(result)
        if on_result is not None:
            on_result(result)
    return Comparison(budget, sum(p.numel() for p in start.model().parameters()), results)


@dataclass(frozen=True, slots=True)
class _Start:
    """What all runs with one seed have in common."""

    budget: Budget
    text: Text
    seed: int
    weights: dict[str, Tensor]

    def model(self) -> GPT:
        """A model at the start."""
        made = _fresh_model(self.budget, self.seed)
        made.load_state_dict(self.weights)
        return made

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches of one worker's own."""
        b = self.budget
        return self.text.batches(self.seed, name, b.batch_size, b.context, torch.device(b.device))

    def evaluation(self, model: GPT, settings: RunSettings) -> Callable[[], float]:
        """Validation loss of ``model``."""
        device = torch.device(self.budget.device)
        return evaluation(model, self.text, settings, device, num_batches=_EVALUATION_BATCHES)


def _start(settings: RunSettings, seed: int, budget: Budget, text: Text) -> _Start:
    model = _fresh_model(budget, seed)
    train = settings.train.model_copy(update={"inner_lr": budget.inner_lr})
    step = InnerSteps(model, inner_optimizers("adamw", model, train), train)
    start = _Start(budget, text, seed, {})
    streams = [start.batches(f"start {index}") for index in range(budget.workers)]
    for _ in range(budget.start_tokens // (budget.workers * budget.tokens_per_step)):
        step(_joined([next(stream) for stream in streams]))
    return replace(start, weights={k: v.clone() for k, v in model.state_dict().items()})


def _fresh_model(budget: Budget, seed: int) -> GPT:
    return GPT(budget.layers, budget.heads, budget.width, budget.context, seed).to(budget.device)


def _joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(column) for column in zip(*batches, strict=True))


def _in_whole_rounds(budget: Budget, periods: Sequence[int]) -> Budget:
    """So few tokens less that every method ends with a round, if there are steps for one of each."""
    common = math.lcm(*periods) if periods else 1
    if common > budget.steps:
        return budget
    steps = budget.steps // common * common
    return replace(budget, tokens=steps * budget.workers * budget.tokens_per_step)


def _settings(name: str, overrides: dict[str, Any], budget: Budget) -> RunSettings:
    parts = dict(overrides)
    if budget.sync_every is not None and name in PRESETS and PRESETS[name].sync_every > 1:
        parts.setdefault("sync_every", budget.sync_every)
    lr = parts.pop("inner_lr", budget.inner_lr)
    plain = {
        "run": {"name": "comparison", "rounds": 10**9, "min_peers": budget.workers},
        "method": {"preset": name, **parts} if name in PRESETS else {},
        "model": {
            "layers": budget.layers,
            "heads": budget.heads,
            "width": budget.width,
            "context": budget.context,
        },
        "train": {"batch_size": budget.batch_size, "inner_lr": lr},
    }
    return parse_settings(plain, name)


def _swarm(name: str, settings: RunSettings, start: _Start) -> RunResult:
    method, budget = settings.method.resolved(), start.budget
    jobs = [_job(settings, start, i) for i in range(budget.workers)]
    probe = start.model()
    evaluate = start.evaluation(probe, settings)
    layout = jobs[0].replica.layout
    shown = ModelTensors.of(replace(layout, fragments=layout.fragments[: method.num_fragments]), probe)
    marks, curve = _marks(budget), []

    def loss_of(job: _Job) -> float:
        replica = job.replica
        for fragment in range(method.num_fragments):
            values = replica.outer.outer_parameters(fragment)
            # With a mask they are a patchwork of many rounds: there a replica is the model.
            shown.scatter(
                fragment, replica.model.gather(fragment, torch.empty_like(values)) if masked else values
            )
        return evaluate()

    def on_step(index: int, worker: Worker) -> None:
        if index == 0 and worker.session.steps in marks:
            tokens = worker.session.steps * budget.workers * budget.tokens_per_step
            curve.append((tokens, float(worker.bytes_sent), loss_of(jobs[0])))

    masked = method.projection == "random_mask"
    swarm = SimulatedTraining(
        settings,
        [job.trainer for job in jobs],
        budget.steps,
        tokens_per_step=budget.tokens_per_step,
        on_step=on_step,
    )
    swarm.run()
    loss = statistics.fmean(loss_of(job) for job in (jobs if method.gossips or masked else jobs[:1]))
    bytes_each = statistics.fmean(worker.bytes_sent for worker in swarm.workers)
    curve.append((budget.steps * budget.workers * budget.tokens_per_step, bytes_each, loss))
    return RunResult(
        method=name,
        seed=start.seed,
        loss=loss,
        replica_loss=start.evaluation(jobs[0].model, settings)(),
        bytes_per_worker=bytes_each,
        exchanges=max(swarm.exchanges.values()),
        waited_s=statistics.fmean(worker.session.waited_s for worker in swarm.workers),
        variance=_variance([j.replica.outer.outer_parameters(0) for j in jobs]) if method.gossips else 0.0,
        curve=curve,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    model: GPT
    replica: TensorReplica
    trainer: Trainer


def _job(settings: RunSettings, start: _Start, index: int) -> _Job:
    model, train = start.model(), _decaying(settings, start.budget.steps)
    return _Job(model, *trainer_of(settings, train, model, start.batches(f"worker {index}")))


def _baseline(name: str, kind: str, settings: RunSettings, start: _Start) -> RunResult:
    """One model: the gradient of all workers' batches at each step, or one worker's alone for as many
    tokens."""
    budget = start.budget
    together = budget.workers if kind == "data_parallel" else 1
    steps = budget.steps * budget.workers // together
    model = start.model()
    step = InnerSteps(model, inner_optimizers("adamw", model, settings.train), _decaying(settings, steps))
    streams = [start.batches(f"worker {index}") for index in range(together)]
    evaluate = start.evaluation(model, settings)
    # A ring: everyone sends 2 (M - 1) / M of the gradient in fp32.
    bytes_per_step = 2 * (together - 1) / together * 4 * sum(p.numel() for p in model.parameters())
    marks, curve = {mark * steps // budget.steps for mark in _marks(budget)}, []
    for count in range(1, steps + 1):
        step(_joined([next(stream) for stream in streams]))
        if count in marks or count == steps:
            curve.append((count * together * budget.tokens_per_step, count * bytes_per_step, evaluate()))
    loss = curve[-1][2]
    return RunResult(name, start.seed, loss, loss, steps * bytes_per_step, steps, 0.0, 0.0, curve=curve)


def _decaying(settings: RunSettings, steps: int) -> Train:
    """The learning rate falls over the run: noise that it leaves in workers would be all that is compared."""
    return settings.train.model_copy(update={"decay_steps": steps})


def _marks(budget: Budget) -> set[int]:
    """Steps of a worker at which to evaluate; the last one is evaluated anyway."""
    return {budget.steps * k // budget.points for k in range(1, budget.points)} - {0}


def _variance(thetas: list[Tensor]) -> float:
    mean = torch.stack(thetas).mean(0)
    distances = [float((theta - mean).square().sum()) for theta in thetas]
    return statistics.fmean(distances) / float(mean.square().sum())


def _value(text: str) -> Any:
    if ":" in text:  # points of a setting that changes over outer steps
        return tuple(tuple(_value(each) for each in point.split(":")) for point in text.split("/"))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)
