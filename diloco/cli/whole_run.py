"""The same run without stages: so many whole workers in this process, by the cores that real ones have.

What a run in stages is compared with: the same model, settings, number of sequences in an inner step and
number of inner steps. Its data are drawn anew, and it clips the whole gradient and not a part's.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from diloco.checkpoints.sharded import INDEX
from diloco.models.gpt import GPTSizes
from diloco.models.layered import LayeredGPT
from diloco.models.text import load_text
from diloco.recipe import evaluation
from diloco.settings import RunSettings
from diloco.simulation.tensor_trainer import trainer_of
from diloco.simulation.virtual_training import SimulatedTraining

CPU = torch.device("cpu")


def fresh_model(settings: RunSettings) -> LayeredGPT:
    """The built-in model in layers, as the run begins."""
    sizes = settings.model
    return LayeredGPT(GPTSizes(sizes.layers, sizes.heads, sizes.width, sizes.context), settings.run.seed)


def loss_of_saved(settings: RunSettings, folder: Path) -> tuple[float, float]:
    """Validation loss of the sharded model in a folder, and of the one that the run began with."""
    model = fresh_model(settings)
    evaluate = evaluation(model, load_text(), settings, CPU)
    untrained = evaluate()
    files = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    model.load_state_dict({name: each for file in files for name, each in load_file(folder / file).items()})
    return evaluate(), untrained


def train_whole(settings: RunSettings, workers: int) -> float:
    """Train whole workers for the run's rounds; the validation loss of the outer parameters."""
    text, pipeline = load_text(), settings.pipeline
    sequences = pipeline.microbatch * pipeline.quota
    context, seed = settings.model.context, settings.run.seed
    whole = settings.model_copy(
        update={
            "pipeline": type(pipeline)(),
            "train": settings.train.model_copy(update={"batch_size": sequences}),
            "run": settings.run.model_copy(update={"min_peers": workers}),
        }
    )
    made = []
    for index in range(workers):
        batches = text.batches(seed, f"whole {index}", sequences, context)
        made.append(trainer_of(whole, whole.train, fresh_model(settings), batches))
    steps = settings.run.rounds * settings.method.resolved().sync_every
    SimulatedTraining(
        whole, [trainer for _, trainer in made], steps, tokens_per_step=sequences * context
    ).run()
    replica, shown = made[0][0], fresh_model(settings)
    names = [spec.name for specs in replica.layout.fragments for spec in specs]
    by_name = dict(shown.named_parameters())
    with torch.no_grad():
        for fragment in range(replica.num_fragments):
            values, at = replica.outer.outer_parameters(fragment), 0
            for spec in replica.layout.fragments[fragment]:
                target = by_name[spec.name]
                target.copy_(values[at : at + target.numel()].view_as(target))
                at += target.numel()
    assert set(names) == set(by_name), "everything is trained"
    return evaluation(shown, text, settings, CPU)()
