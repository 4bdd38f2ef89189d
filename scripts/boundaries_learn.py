"""What formats of boundaries cost in loss: a model in 4 stages and 2 lines, equal tokens, one process.

The built-in model (4 layers of 128, untied, 0.87 M parameters) learns Python's own source from scratch; the
same seed has the same start and the same data in each row, but for models with a waist (`model.waist`), which
are others. Tensors go from stage to stage encoded and decoded
(`diloco.pipeline.boundary_codecs`); the parameters of the two lines are averaged every H inner steps, stage
by stage, without loss. Losses are nats per byte of the averaged parameters on the same validation bytes for
all: as a saved model has it, and through the boundaries that it was trained with. What has been run is in
``--out``, a file for each row and seed, and is not run again.

    python scripts/boundaries_learn.py --out boundaries
    python scripts/boundaries_learn.py --out boundaries --table
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from diloco.methods.presets import method
from diloco.models.layered import cross_entropy_sum
from diloco.models.text import load_text
from diloco.outer.replica import TensorReplica
from diloco.pipeline.boundary_codecs import BoundaryCodec
from diloco.pipeline.cuts import Part
from diloco.pipeline.in_process import Line, LineStep, LocalStage
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart
from diloco.recipe import gpt, job_of
from diloco.settings import RunSettings

STAGES, LINES = 4, 2
MICROBATCH, CONTEXT = 4, 128
VALIDATION = 64
"""Microbatches."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to send what lies between stages."""

    name: str
    activations: str = "fp32"
    gradients: str = "fp32"
    waist: int = 0


ROWS = (
    Row("fp32"),
    Row("bf16", "bf16", "bf16"),
    Row("int8", "int8", "int8"),
    Row("int4", "int4", "int4"),
    Row("int4_rotated", "int4_rotated", "int4_rotated"),
    Row("int4, forward only", "int4"),
    Row("int4_rotated, forward only", "int4_rotated"),
    Row("int8, forward only", "int8"),
    Row("waist 32", waist=32),
    Row("waist 16", waist=16),
    Row("waist 8", waist=8),
    Row("waist 16, int8", "int8", "int8", waist=16),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Of one row and seed."""

    row: str
    seed: int
    tokens: int
    parameters: int
    loss: float
    """On validation bytes, without boundaries."""
    coded_loss: float
    """Through them."""
    train_loss: float
    """Mean of the last tenth of the run's inner steps."""
    bytes_up: float
    """Of a token at one boundary."""
    bytes_down: float
    seconds: float


def settings_of(row: Row, seed: int, options: argparse.Namespace) -> RunSettings:
    steps = options.tokens // (LINES * options.quota * MICROBATCH * CONTEXT)
    return RunSettings.model_validate(
        {
            "run": {"seed": seed},
            "model": {"tied": False, "context": CONTEXT, "waist": row.waist},
            "pipeline": {"stages": STAGES, "microbatch": MICROBATCH, "quota": options.quota},
            "train": {
                "inner_lr": options.inner_lr,
                "warmup_steps": max(1, steps // 10),
                "decay_steps": steps,
            },
        }
    )


class Worker:
    """One line: a replica of each stage, and what its rounds are about."""

    def __init__(self, row: Row, settings: RunSettings, number: int, sync_every: int) -> None:
        self.row, self.seed = row, settings.run.seed
        self.stages = []
        self.replicas = []
        for stage in range(STAGES):
            job = job_of(gpt, settings, None, torch.device("cpu"), f"line {number}", Part(stage, STAGES))
            if not stage:
                batches = job.batches
            takes, gives = job.boundary
            part = RunningPart(
                Part(stage, STAGES),
                job.model,
                takes=takes,
                gives=gives,
                loss=job.loss,
                nominal_tokens=job.tokens_per_step,
                seed=self.seed,
                recompute=False,
            )
            quota = settings.pipeline.quota
            self.stages.append(LocalStage(part, job.optimizer, quota=quota, apply=job.apply))
            chosen = method("local_sgd", sync_every=sync_every)
            self.replicas.append(TensorReplica.of(job.model, chosen, job.optimizer))
        line = Line(self.stages, feeder=bytes([number]), make_codec=self.codec)
        self.steps: Iterator[LineStep] = line.run(batches)

    def codec(self, boundary: object) -> BoundaryCodec:
        return BoundaryCodec(boundary, self.row.activations, self.row.gradients, seed=self.seed)

    @torch.no_grad()
    def losses(self, data: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Per token: as one model, and through its boundaries."""
        found = []
        for coded in (False, True):
            total, tokens = 0.0, 0
            for number, (x, targets) in enumerate(data):
                for stage in self.stages:
                    if coded and (edge := stage.part.takes):
                        codec, microbatch = self.codec(edge), MicrobatchId(b"", 0, number)
                        x = codec.decode_activation(codec.encode_activation(x, microbatch), microbatch)
                    x = stage.part.model(x)
                loss, counted = cross_entropy_sum(x, targets)
                total, tokens = total + float(loss), tokens + counted
            found.append(total / tokens)
        return found[0], found[1]


def average(workers: Sequence[Worker]) -> None:
    """One outer step of each stage: all lines go on from the mean of their parameters."""
    for replicas in zip(*(each.replicas for each in workers), strict=True):
        mean = torch.stack([each.local.pseudo_gradient(0) for each in replicas]).mean(0)
        for each in replicas:
            each.outer.step(0, mean.clone())
            each.discard(0)


def run(row: Row, seed: int, options: argparse.Namespace) -> Result:
    began = time.monotonic()
    settings = settings_of(row, seed, options)
    workers = [Worker(row, settings, number, options.sync_every) for number in range(LINES)]
    steps = settings.train.decay_steps
    seen = []
    for step in range(steps):
        taken = [next(each.steps) for each in workers]
        seen.append(statistics.fmean(each.loss for each in taken))
        if (step + 1) % options.sync_every == 0 or step == steps - 1:
            average(workers)
    drawn = load_text().batches(0, "validation", MICROBATCH, CONTEXT, validation=True)
    loss, coded = workers[0].losses(list(islice(drawn, VALIDATION)))
    parts = [each.part for each in workers[0].stages]
    codec = workers[0].codec(parts[0].gives)
    per_microbatch = MICROBATCH * CONTEXT
    return Result(
        row=row.name,
        seed=seed,
        tokens=steps * LINES * options.quota * per_microbatch,
        parameters=sum(p.numel() for part in parts for p in part.model.parameters()),
        loss=loss,
        coded_loss=coded,
        train_loss=statistics.fmean(seen[-max(1, steps // 10) :]),
        bytes_up=codec.activation_bytes / per_microbatch,
        bytes_down=codec.gradient_bytes / per_microbatch,
        seconds=time.monotonic() - began,
    )


def table(results: Sequence[Result]) -> str:
    """In Markdown; what a row costs is the mean over its seeds, each against fp32 of the same seed."""
    base = {each.seed: each.loss for each in results if each.row == "fp32"}
    lines = [
        "| | seeds | loss | spread | through boundaries | bytes a token up | down | against fp32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        here = sorted((each for each in results if each.row == row.name), key=lambda each: each.seed)
        if not here:
            continue
        losses = [each.loss for each in here]
        spread = f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
        changes = [100 * (each.loss / base[each.seed] - 1) for each in here if each.seed in base]
        shown = f"{statistics.fmean(changes):+.1f} %" if changes else ""
        if len(changes) > 1:
            shown += f" ({', '.join(f'{each:+.1f}' for each in changes)})"
        lines.append(
            f"| {row.name} | {len(here)} | {statistics.fmean(losses):.4f} | {spread} |"
            f" {statistics.fmean(each.coded_loss for each in here):.4f} |"
            f" {here[0].bytes_up:g} | {here[0].bytes_down:g} | {shown} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of what was run")
    parser.add_argument("--tokens", type=int, default=245_760, help="of both lines together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quota", type=int, default=2, help="microbatches of an inner step of a line")
    parser.add_argument("--sync-every", type=int, default=10, help="inner steps between averages")
    parser.add_argument("--inner-lr", type=float, default=2e-3)
    parser.add_argument("--rows", help="names, separated by semicolons; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what there is, and run nothing")
    options = parser.parse_args()
    names = [row.name for row in ROWS] if options.rows is None else options.rows.split(";")
    if unknown := set(names) - {row.name for row in ROWS}:
        parser.error(f"unknown rows {sorted(unknown)}: there are {'; '.join(row.name for row in ROWS)}")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(0 if options.table else options.seeds):
        for row in ROWS:
            path = options.out / f"{row.name.replace(', ', '-').replace(' ', '_')}-{seed}.json"
            if row.name not in names or path.exists():
                continue
            found = run(row, seed, options)
            path.write_text(json.dumps(asdict(found)) + "\n")
            print(f"{row.name}, seed {seed}: {found.loss:.4f} in {found.seconds:.0f} s", flush=True)
    kept = sorted(options.out.glob("*.json"))
    print(table([Result(**json.loads(path.read_text())) for path in kept]))


if __name__ == "__main__":
    main()
