"""`diloco cut`: time a model's layers on this machine, and print the cuts with the fastest slowest stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from diloco.cli import options
from diloco.errors import PipelineError, UserError
from diloco.extras import require
from diloco.settings import RunSettings, load_settings

if TYPE_CHECKING:
    from torch import Tensor

    from diloco.pipeline.timing import LayerCost

STATE_BYTES = 16
"""Of a parameter: itself, its gradient, and AdamW's two means, in fp32."""


def cut_command(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", show_default=False)],
    stages: Annotated[
        int | None, typer.Option(min=2, help="How many; by default [pipeline] stages of the file.")
    ] = None,
    recipe: options.Recipe = "gpt",
    data: options.Data = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Time each layer of a run's model and print the cuts whose slowest stage is fastest.

    One layer is held at a time. Put the line that it prints into the file, for all peers must agree."""
    require("train", "diloco cut")
    settings = load_settings(run)
    wanted = stages or settings.pipeline.stages
    if wanted < 2:
        raise UserError(f"{run} has pipeline.stages = 1: set it there, or give --stages")
    costs = _costs_of(settings, recipe, data, device, threads)
    _show(costs, wanted, settings)


def _costs_of(
    settings: RunSettings, recipe: str, data: Path | None, device: str, threads: int | None
) -> list[LayerCost]:
    import torch

    from diloco.cli.train import checked_device
    from diloco.pipeline.cuts import Part
    from diloco.pipeline.timing import time_layers
    from diloco.recipe import job_of, load_recipe

    if threads is not None:
        torch.set_num_threads(threads)
    where, made_by = checked_device(device), load_recipe(recipe)
    first = job_of(made_by, settings, data, where, "", Part(0, 2, (1,)))
    if len(first.layers) < 2:
        raise PipelineError(
            f"recipe {recipe} does not say what it cuts: let it return Job(..., layers=layers), the list that"
            " it gives diloco.cut"
        )
    last = job_of(made_by, settings, data, where, "", Part(1, 2, (len(first.layers) - 1,)))
    assert last.loss is not None, "the last part has a loss"
    x, targets = _microbatch_of(next(iter(first.batches), None), recipe)
    return time_layers(first.layers, x, targets, last.loss, where)


def _microbatch_of(batch: object, recipe: str) -> tuple[Tensor, Tensor]:
    from torch import Tensor

    if batch is None:
        raise PipelineError(f"recipe {recipe} has no batches: there is nothing to time layers with")
    pair = tuple(batch) if isinstance(batch, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(each, Tensor) for each in pair):
        raise PipelineError(
            f"recipe {recipe} has a batch that is no microbatch of a part: let it be a pair of tensors, input"
            " and targets"
        )
    return pair


def _show(costs: list[LayerCost], stages: int, settings: RunSettings) -> None:
    from diloco.pipeline.balancing import best_cuts, slowest
    from diloco.pipeline.cuts import Part

    recompute = settings.pipeline.recompute
    seconds = [each.seconds(recompute=recompute) for each in costs]
    cuts = best_cuts(seconds, stages)
    sizes = [each.parameters for each in costs]
    runs = Part(0, stages, cuts).all_layers(sizes)
    table = Table(title=f"{len(costs)} layers in {stages} stages, one microbatch")
    for heading in ("stage", "layers", "forward ms", "backward ms", "parameters", "state MB", "boundary MB"):
        table.add_column(heading, justify="right")
    for stage, run in enumerate(runs):
        own = costs[run.start : run.stop]
        backward_s = sum(each.seconds(recompute=recompute) - each.forward_s for each in own)
        parameters = sum(each.parameters for each in own)
        table.add_row(
            str(stage),
            f"{run.start} to {run.stop - 1}",
            f"{sum(each.forward_s for each in own) * 1e3:.2f}",
            f"{backward_s * 1e3:.2f}",
            f"{parameters:,}",
            f"{parameters * STATE_BYTES / 1e6:.1f}",
            f"{own[-1].output * 4 / 1e6:.2f}" if stage < stages - 1 else "",
        )
    console = Console()
    console.print(table)
    equal = Part(0, stages).all_layers(sizes)
    print(
        f"the slowest stage takes {slowest(seconds, runs) * 1e3:.2f} ms of {sum(seconds) * 1e3:.2f};"
        f" of equal parameters, {slowest(seconds, equal) * 1e3:.2f}"
    )
    print(f"[pipeline]\nstages = {stages}\ncuts = {list(cuts)}")
