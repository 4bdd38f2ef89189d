"""`diloco checkpoint plan`: what a new run would take over of an earlier state, without beginning it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diloco.cli import options
from diloco.extras import require
from diloco.settings import RunSettings, load_settings
from diloco.terminal import printable

if TYPE_CHECKING:
    from diloco.checkpoints.regroup import Plan


def plan_command(
    origin: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_SAFETENSORS", show_default=False)],
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", show_default=False)],
    recipe: options.Recipe = "gpt",
    data: options.Data = None,
) -> None:
    """Say what diloco host RUN.toml --from would keep, drop and begin anew."""
    require("train", "diloco checkpoint plan")
    for line in planned(origin, load_settings(run), recipe, data).lines():
        print(printable(line))


def planned(origin: Path, settings: RunSettings, recipe: str, data: Path | None) -> Plan:
    """What a run with these settings would take over. Reads all of it. Raises `CheckpointError` where
    that cannot be."""
    import torch

    from diloco.checkpoints.origin import open_origin
    from diloco.checkpoints.regroup import plan, take_over
    from diloco.outer.replica import TensorReplica
    from diloco.recipe import job_of, load_recipe

    found = open_origin(origin)
    job = job_of(load_recipe(recipe), settings, data, torch.device("cpu"), "plan")
    method = settings.method.resolved()
    replica = TensorReplica.of(job.model, method, job.optimizer)
    done = plan(found, replica, method)
    take_over(found, replica, done)  # its values too: a run that was begun with them could not go on
    return done
