"""One worker of the command line in a run whose model is cut: it asks for a stage, builds that, and trains.

The counterpart of `train` for parts: owns what `diloco join` and `diloco host --train` do there between
entering and leaving. Decides nothing about microbatches or rounds.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from diloco.checkpoints.moved import set_aside
from diloco.cli.train import Heard, Watch, checked_device, keep_what_is_held
from diloco.compression.kernels import running
from diloco.errors import PipelineError, UserError
from diloco.interrupts import Interrupts
from diloco.monitoring.event_log import EventLog
from diloco.pipeline.cuts import Part
from diloco.pipeline.evaluating import Validation
from diloco.pipeline.serving import Stage
from diloco.pipeline.staging import part_of, stage
from diloco.recipe import Job, Recipe, job_of, require_parts
from diloco.swarm.swarm import Swarm

_LOG_EVERY_S = 0.5


@dataclass(slots=True)
class StageOutcome:
    """What a replica's run came to."""

    stage: int
    rounds: int
    steps: int
    counted: int
    """Microbatches."""
    settled: int
    """At stage 0, as the next two: of those that it fed."""
    partial: int
    lost: int
    tokens_by_fate: dict[str, int]
    bytes_sent: int
    bytes_received: int
    waited_s: float
    loss: float | None
    """At the last stage: of the last step."""
    validation: float | None = None
    """At stage 0: of what was evaluated last, if it had a loss."""
    validation_round: int | None = None
    """When that was begun; None if nothing was evaluated."""
    moves_to: int | None = None
    """The stage that this worker is to join next: its part in this one has ended."""

    def line(self) -> str:
        """For people."""
        fates = ", ".join(f"{count:,} {fate}" for fate, count in self.tokens_by_fate.items() if count)
        fed = ""
        if self.stage == 0:
            fed = f" ({self.settled:,} settled, {self.partial:,} partial, {self.lost:,} lost)"
        loss = "" if self.loss is None else f", last loss {self.loss:.4f}"
        if self.validation is not None:
            loss += f", validation loss {self.validation:.4f} at round {self.validation_round}"
        elif self.validation_round is not None:
            loss += f", no validation loss at round {self.validation_round}: all of it was given up"
        return (
            f"stage {self.stage}: {self.rounds} rounds, {self.steps} inner steps, {self.counted:,}"
            f" microbatches{fed}, tokens: {fates or 'none applied'};"
            f" {self.bytes_sent / 1e6:.1f} MB sent{loss}"
        )


def make_part(
    recipe: Recipe, swarm: Swarm, data: Path | None, device: str, wish: int | None, *, moves: bool = False
) -> tuple[Part, Job]:
    """Ask the host for a stage, and build that one only; one that ``moves`` may be told another one later.
    Raises `UserError` for what cannot be built."""
    found = checked_device(device)
    require_parts(recipe, swarm.settings.pipeline.stages)
    part = part_of(swarm.settings, swarm.ask_stage(wish, moves=moves))
    if moves and swarm.home is not None:
        set_aside(swarm.home, swarm.run, part.stage)
    job = job_of(recipe, swarm.settings, data, found, swarm.peer_name, part)
    size = sum(each.numel() for each in job.model.parameters())
    print(f"it trains stage {part.stage} of {part.stages}: {size:,} parameters", flush=True)
    return part, job


def train_stage(
    swarm: Swarm,
    part: Part,
    job: Job,
    *,
    log: EventLog,
    interrupts: Interrupts,
    save: Path | None = None,
    full: bool = False,
    watch: Watch | None = None,
) -> StageOutcome:
    """Train until the run has all its rounds. At Ctrl-C what is in flight is finished, what is held is saved,
    and `KeyboardInterrupt` follows. ``save`` is the folder for this stage's file of the sharded model."""
    require_folder(save)
    heard = Heard(swarm, job, log, watch)
    made = stage(
        job.model,
        job.optimizer,
        swarm,
        part=part,
        boundary=job.boundary,
        loss=job.loss,
        apply=job.apply,
        timeout_s=math.inf,  # what is waited for is told
        on_event=heard.event,
        keep=job.kept(),
    )
    outer = made.outer
    log.write("active", text=f"trains stage {part.stage}; codecs run by {running()}", round=outer.round)
    try:
        with interrupts.ending_with(outer.stop):
            loss = _steps(made, job, log, watch)
    except Exception as error:
        keep_what_is_held(outer, job, save, full, log, error)
        raise
    if made.moves_to is not None:
        told = f"the host moves this worker to stage {made.moves_to}, which has too little"
        log.write("moves", text=f"{told}: it joins anew", to=made.moves_to)
        print(told, flush=True)
    elif save is not None:
        outer.save(save, full=full)
    if interrupts.requested:
        raise KeyboardInterrupt
    outcome = _outcome(made, heard.rounds(outer), loss)
    log.write("end", text=f"ends: {outcome.line()}", tokens=outer.tokens, **asdict(outcome))
    return outcome


def require_folder(save: Path | None) -> None:
    """Raises `UserError` for what cannot be the folder of a sharded model."""
    if save is None:
        return
    if save.is_file() or save.suffix == ".safetensors":
        raise UserError(f"--save {save}: this run's model is in stages: name a folder for their files")
    if not save.parent.is_dir():
        raise UserError(f"{save} cannot be written: there is no folder {save.parent}")


def _steps(made: Stage, job: Job, log: EventLog, watch: Watch | None) -> float | None:
    """Train; the loss of the last step, where it is known."""
    outer, swarm = made.outer, made.outer.swarm
    if outer.finished:
        return None  # it was so when this worker came
    if made.part.part.is_first and not hasattr(job.batches, "__next__"):
        raise PipelineError("the recipe gives stage 0 no batches: let Job.batches be pairs (input, targets)")
    print(f"it trains from commit {outer.round} on; codecs run by {running()}", flush=True)
    if job.follow is not None:
        job.follow(swarm.settings)  # what an optimizer kept may be of settings before these
    logged, loss, evaluated = 0.0, None, None
    made.validation = Validation(job.validation)
    for step in made.run(job.batches if made.part.part.is_first else None):
        loss = step.loss if step.loss is not None else loss
        if watch is not None:
            watch.stepped(outer.step, loss, outer.tokens_per_second, outer.waited_s)
        newest = made.validation.last
        if newest is not None and newest is not evaluated:
            evaluated = newest
            log.write("validation", **asdict(newest))
        if time.monotonic() - logged > _LOG_EVERY_S:
            logged = time.monotonic()
            tally = made.tally
            log.write(
                "step",
                step=outer.step,
                stage=made.part.part.stage,
                tokens=outer.tokens,
                loss=loss,
                round=outer.round,
                participants=swarm.view.participants,
                bytes_sent=swarm.bytes_sent,
                waited_s=round(outer.waited_s, 3),
                counted=tally.counted,
                settled=tally.settled,
                partial=tally.partial,
                lost=tally.lost,
            )
    return loss


def _outcome(made: Stage, rounds: int, loss: float | None) -> StageOutcome:
    outer, tally, evaluated = made.outer, made.tally, made.validation.last
    return StageOutcome(
        stage=made.part.part.stage,
        rounds=rounds,
        steps=outer.step,
        counted=tally.counted,
        settled=tally.settled,
        partial=tally.partial,
        lost=tally.lost,
        tokens_by_fate=outer.tokens_by_fate,
        bytes_sent=outer.swarm.bytes_sent,
        bytes_received=outer.swarm.bytes_received,
        waited_s=round(outer.waited_s, 2),
        loss=loss,
        validation=evaluated.loss if evaluated is not None else None,
        validation_round=evaluated.round if evaluated is not None else None,
        moves_to=made.moves_to,
    )
