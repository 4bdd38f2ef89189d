"""`diloco checkpoint plan`: what a new run would take over of an earlier state, without beginning it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diloco.cli import options
from diloco.settings import load_settings
from diloco.terminal import printable


def plan_command(
    origin: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_SAFETENSORS", show_default=False)],
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", show_default=False)],
    recipe: options.Recipe = "gpt",
    data: options.Data = None,
) -> None:
    """Say what diloco host RUN.toml --from would keep, drop and begin anew."""
    import torch

    from diloco.checkpoints.origin import open_origin
    from diloco.checkpoints.regroup import plan
    from diloco.outer.replica import TensorReplica
    from diloco.recipe import load_recipe

    settings = load_settings(run)
    found = open_origin(origin)
    job = load_recipe(recipe)(settings, data, torch.device("cpu"), "plan")
    method = settings.method.resolved()
    replica = TensorReplica.of(job.model, method, job.optimizer)
    for line in plan(found, replica, method).lines():
        print(printable(line))
