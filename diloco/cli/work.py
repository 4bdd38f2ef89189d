"""What a command trains, by the flags of `host --train` and `join`. Torch is imported when it starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any, get_type_hints

import diloco
from diloco.cli import options
from diloco.cli.watching import BesideHost, own_training, watched
from diloco.errors import UserError
from diloco.extras import require
from diloco.interrupts import NOTICE_S, Interrupts
from diloco.monitoring.event_log import EventLog

if TYPE_CHECKING:
    from diloco.cli.train import TrainingOutcome
    from diloco.cli.train_stage import StageOutcome
    from diloco.monitoring.run_view import Screen
    from diloco.recipe import Recipe
    from diloco.settings import RunSettings
    from peers.coordinator.status import RunStatus


@dataclass(frozen=True, slots=True)
class Work:
    """Flags of commands that train; see `with_work`."""

    events: options.Events = None
    notice: options.Notice = NOTICE_S
    recipe: options.Recipe = "gpt"
    data: options.Data = None
    lora: options.Lora = None
    device: options.Device = "auto"
    save: options.Save = None
    full: options.Full = False
    stage: options.Stage = None
    threads: options.Threads = None
    kernels: options.Kernels = "auto"

    def __post_init__(self) -> None:
        if self.full and self.save is None:
            raise UserError("--full says what --save writes: give --save FILE too")
        if self.kernels != "auto":
            require("train", f"--kernels {self.kernels}")
            from diloco.compression.kernels import use

            use(self.kernels)

    def asked(self, settings: RunSettings) -> RunSettings:
        """The settings that a host begins with, as flags say."""
        if self.lora is None:
            return settings
        return settings.model_copy(update={"model": settings.model.model_copy(update={"lora": self.lora})})

    def load(self, settings: RunSettings | None = None) -> None:
        """Load what is to be trained, and look whether it can be, before anything listens; a joiner learns
        ``settings`` later. Raises `RecipeError` and `TextError`."""
        from diloco.recipe import check_recipe

        check_recipe(_loaded(self.recipe), self.data, settings)

    def train(
        self,
        swarm: diloco.Swarm,
        interrupts: Interrupts,
        log: EventLog,
        *,
        ask: Callable[[], RunStatus] | None = None,
        beside: Screen | None = None,
        moves: bool = False,
    ) -> TrainingOutcome | StageOutcome:
        """Train until the run is done, the whole model or a stage of it, and show it: in a view of its own,
        which may ``ask`` the host for its status, or ``beside`` a host's. One that ``moves`` may end sooner,
        to join anew with another stage."""
        import torch

        from diloco.cli.train import make_job, place_of, start_lines, train

        if self.lora not in (None, swarm.settings.model.lora):
            runs = swarm.settings.model.lora or "0: all weights"
            raise UserError(
                f"--lora {self.lora}: the run has model.lora = {runs}; leave it out, to do as it says"
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        recipe, stages = _loaded(self.recipe), swarm.settings.pipeline.stages
        given: dict[str, Any] = {"log": log, "interrupts": interrupts, "save": self.save, "full": self.full}
        run: Callable[..., TrainingOutcome | StageOutcome]
        if stages > 1:
            from diloco.cli.train_stage import make_part, require_folder, train_stage

            require_folder(self.save)
            part, job = make_part(recipe, swarm, self.data, self.device, self.stage, moves=moves)
            run = partial(train_stage, swarm, part, job, **given)
        elif self.stage is not None:
            raise UserError(f"--stage {self.stage}: this run's model is not cut into stages; leave it out")
        else:
            job = make_job(recipe, swarm, self.data, self.device)
            run = partial(train, swarm, job, **given)
        lines, where = start_lines(swarm, job), place_of(job)
        if beside is not None:
            beside.above("\n".join(lines))
            return run(watch=BesideHost(beside, own_training(swarm, where)))
        print("\n".join(lines), flush=True)
        with watched(swarm, where, ask) as screen:
            return run(watch=screen)


@cache
def _loaded(name: str) -> Recipe:
    """The recipe, whose file runs once."""
    from diloco.recipe import load_recipe

    return load_recipe(name)


def with_work(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer that has the options of `Work` in the place of its parameter ``work``."""
    hints = get_type_hints(Work, include_extras=True)
    flags = [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name]
        )
        for each in fields(Work)
    ]
    own = inspect.signature(command, eval_str=True).parameters.values()
    kept = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own if each.name != "work"]

    @wraps(command)
    def made(**given: Any) -> None:
        work = Work(**{each.name: given.pop(each.name) for each in flags})
        command(**given, work=work)

    every = [*kept, *flags]
    made.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    made.__annotations__ = {each.name: each.annotation for each in every}
    return made
