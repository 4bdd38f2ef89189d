"""One worker of the command line: a recipe's job, trained in a swarm until the run is finished.

Owns what `diloco join` and `diloco host --train` do between entering and leaving, and the record of
it as JSON lines. Decides nothing about rounds. A path or device that does not work is found here, before
anything was trained.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from diloco.compression.kernels import running
from diloco.errors import DeviceFailed, SwarmClosed, UserError
from diloco.interrupts import Interrupts
from diloco.monitoring.event_log import EventLog
from diloco.recipe import Job, Recipe, job_of
from diloco.swarm.swarm import Swarm
from diloco.training.attach import attach
from diloco.training.device_errors import device_fault
from diloco.training.epochs import Epochs
from diloco.training.outer import Outer
from peers.protocol.commands import LeaveRun
from peers.protocol.events import CheckpointRestored, RunFinished, SettingsChanged

_LOG = logging.getLogger("diloco")
_LOG_EVERY_S = 0.5
_WRITES_ITSELF = "--full: this recipe writes what belongs to its model by itself, leave it out"


@dataclass(slots=True)
class TrainingOutcome:
    """What a worker's run came to."""

    rounds: int
    steps: int
    tokens_by_fate: dict[str, int]
    bytes_sent: int
    bytes_received: int
    waited_s: float
    loss: float
    """Validation loss of the outer parameters."""

    def line(self) -> str:
        fates = ", ".join(f"{count:,} {fate}" for fate, count in self.tokens_by_fate.items() if count)
        return (
            f"{self.rounds} rounds, {self.steps} inner steps, tokens: {fates or 'none applied'}; "
            f"{self.bytes_sent / 1e6:.1f} MB sent, {self.waited_s:.1f} s waited, "
            f"validation loss {self.loss:.4f}"
        )


def make_job(recipe: Recipe, swarm: Swarm, data: Path | None, device: str) -> Job:
    """The recipe's job on this worker, with data of its own. Raises `UserError` for a missing device."""
    return job_of(recipe, swarm.settings, data, checked_device(device), swarm.peer_name)


def checked_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the best that there is. Raises `UserError` if this machine has
    none."""
    if name == "auto":
        name = best_device()
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA says so by an assertion
        reason = str(error).partition("\n")[0]
        raise UserError(f"device {name} cannot be used on this machine: {reason}") from None
    return found


def best_device() -> str:
    """The first of these that this machine has and torch can use."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "xpu" if torch.xpu.is_available() else "cpu"


def device_text(device: torch.device) -> str:
    """A device as people know it: with the name of a GPU, and how many others there are."""
    if device.type != "cuda":
        return str(device)
    name, others = torch.cuda.get_device_name(device), torch.cuda.device_count() - 1
    more = f", 1 of {others + 1}: a worker uses one (--device cuda:1 --name ...)" if others else ""
    return f"{device} ({name}{more})"


def place_of(job: Job) -> str:
    """Where a job trains, in a few words."""
    threads = torch.get_num_threads()
    return f"{_device_of(job)}, {threads} thread{'s' * (threads != 1)}"


def _device_of(job: Job) -> torch.device:
    return next((each.device for each in job.model.parameters()), torch.device("cpu"))


def start_lines(swarm: Swarm, job: Job) -> list[str]:
    """What is about to train, for people: the run, its method, where, and the model."""
    run, method = swarm.settings.run, swarm.settings.method.resolved()
    trained = [each for each in job.model.parameters() if each.requires_grad]
    threads = torch.get_num_threads()
    return [
        f"run {run.name}: {run.rounds} rounds of {method.sync_every} inner steps, {run.min_peers} workers or "
        f"more; method {method.name}, {method.codec}",
        f"device {device_text(_device_of(job))}, {threads} thread{'s' * (threads != 1)} of the CPU; "
        f"{sum(each.numel() for each in trained):,} values to train",
    ]


class Watch(Protocol):
    """Who shows how training goes. Called on the training thread."""

    def event(self, event: object) -> None:
        """Of the member."""

    def stepped(self, step: int, loss: float | None, tokens_per_second: float, waited_s: float) -> None:
        """One inner step is done."""


def train(
    swarm: Swarm,
    job: Job,
    *,
    log: EventLog,
    interrupts: Interrupts,
    save: Path | None = None,
    full: bool = False,
    watch: Watch | None = None,
) -> TrainingOutcome:
    """Train until the run has all its rounds. At Ctrl-C the step at hand is finished, what is held is saved,
    and `KeyboardInterrupt` follows; if a step fails, or the network thread ends by an error (`SwarmClosed`),
    what is held is saved too. A device that fails ends this worker, by `DeviceFailed`. ``save`` must be in a
    folder that exists, and gets frozen parameters too if it is to be ``full``. In the swarm's home, if it has
    one, this worker's own state is kept over restarts."""
    if save is not None and not save.parent.is_dir():
        raise UserError(f"{save} cannot be written: there is no folder {save.parent}")
    if save is not None and job.save is not None and (full or save.is_file()):
        what = f"{save} is a file: this recipe writes a folder" if save.is_file() else _WRITES_ITSELF
        raise UserError(what)

    heard = Heard(swarm, job, log, watch)
    with attach(
        job.model,
        job.optimizer,
        swarm,
        tokens_per_step=job.tokens_per_step,
        timeout_s=math.inf,  # what is waited for is told
        on_event=heard.event,
        keep=job.kept(),
    ) as outer:
        log.write(
            "active",
            text=f"trains; codecs run by {running()}",
            round=outer.round,
            validation_loss=job.evaluate(),
            parameters=outer.num_parameters,
        )
        try:
            with interrupts.ending_with(outer.stop):
                _steps(outer, job, log, watch)
        except Exception as error:
            keep_what_is_held(outer, job, save, full, log, error)
            raise
        write_result(outer, job, save, full)
        if interrupts.requested:
            raise KeyboardInterrupt
        with outer.outer_parameters():
            loss, sample = job.evaluate(), job.sample()
        outcome = _outcome(outer, heard.rounds(outer), loss)
        log.write(
            "end", text=f"ends: {outcome.line()}", tokens=outer.tokens, sample=sample, **asdict(outcome)
        )
    return outcome


def _outcome(outer: Outer, rounds: int, loss: float) -> TrainingOutcome:
    return TrainingOutcome(
        rounds=rounds,
        steps=outer.step,
        tokens_by_fate=outer.tokens_by_fate,
        bytes_sent=outer.swarm.bytes_sent,
        bytes_received=outer.swarm.bytes_received,
        waited_s=round(outer.waited_s, 2),
        loss=loss,
    )


class Heard:
    """What a worker of the command line does with what its member tells: it is shown, logged and followed."""

    def __init__(self, swarm: Swarm, job: Job, log: EventLog, watch: Watch | None) -> None:
        self._swarm, self._job, self._log, self._watch = swarm, job, log, watch
        self._finished: RunFinished | None = None

    def event(self, event: object) -> None:
        """One event."""
        if isinstance(event, RunFinished):
            self._finished = event
        if isinstance(event, CheckpointRestored):
            print(_restored(event, self._swarm.home), flush=True)
        self._log.swarm_event(event)
        if self._watch is not None:
            self._watch.event(event)
        if isinstance(event, SettingsChanged) and self._job.follow is not None:
            self._job.follow(self._swarm.settings)

    def rounds(self, outer: Outer) -> int:
        """Of the run, once it is over. What a worker counts are commits, and a run that went back has fewer
        rounds."""
        return self._finished.rounds if self._finished is not None else outer.round


def _restored(event: CheckpointRestored, home: Path | None) -> str:
    """For people."""
    own = "all that is its own begins anew" if event.step is None else f"inner step {event.step}"
    where = home / event.path if home is not None else event.path
    return f"this worker begins with its checkpoint of {event.unit} {event.index}, {own} ({where})"


def write_result(outer: Outer, job: Job, save: Path | None, full: bool) -> None:
    """What ``--save`` asks for, by the recipe where that knows how."""
    if save is None:
        return
    if job.save is None:
        outer.save(save, full=full)
        return
    with outer.outer_parameters():
        job.save(save)


def keep_what_is_held(
    outer: Outer, job: Job, save: Path | None, full: bool, log: EventLog, error: Exception
) -> None:
    """Training ends by an error: save what is held, and leave the run if the device has failed, by
    `DeviceFailed`. A newer process of this identity saves from now on, and whoever is refused has nothing to
    save."""
    swarm = outer.swarm
    if swarm.failed or not isinstance(error, SwarmClosed | UserError):
        _keep(outer, job, save, full, log, error)
    if fault := device_fault(error):
        swarm.command(LeaveRun(f"its device failed: {fault}"))  # a host's process goes on without
        raise DeviceFailed(f"the device failed, and this worker left the run: {fault}") from error


def _keep(outer: Outer, job: Job, save: Path | None, full: bool, log: EventLog, error: Exception) -> None:
    """Something failed, here or on the network thread: what is held is right still."""
    if save is not None:
        try:
            write_result(outer, job, save, full)
        except RuntimeError as unreadable:
            if device_fault(unreadable) is None:
                raise
            _LOG.warning("%s is not written: the device cannot be read any more", save)
    log.write(
        "failed",
        text=f"ends by an error: {error}",
        reason=str(error),
        round=outer.round,
        step=outer.step,
        tokens=outer.tokens,
    )


def _steps(outer: Outer, job: Job, log: EventLog, watch: Watch | None) -> None:
    if outer.finished:
        return  # it was so when this worker came
    gossips = outer.method.gossips
    where = f"its outer step {outer.replica.count(0)}" if gossips else f"commit {outer.round}"
    print(f"it trains from {where} on; codecs run by {running()}", flush=True)
    if job.follow is not None:
        job.follow(outer.swarm.settings)  # what an optimizer kept may be of settings before these
    logged = 0.0
    for batch in outer.until_finished(Epochs(job.batches)):
        if job.at_step is not None:
            job.at_step(outer.swarm_step)
        loss = float(job.step(batch))
        outer.log(loss=loss)
        if watch is not None:
            watch.stepped(outer.step, loss, outer.tokens_per_second, outer.waited_s)
        if time.monotonic() - logged > _LOG_EVERY_S:
            logged = time.monotonic()
            swarm = outer.swarm
            log.write(
                "step",
                step=outer.step,
                tokens=outer.tokens,
                loss=loss,
                round=outer.round,
                participants=swarm.view.participants,
                bytes_sent=swarm.bytes_sent,
                waited_s=round(outer.waited_s, 3),
            )
