"""Real models for simulated workers: the built-in one, on text, with real inner optimizers and outer
states."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diloco.models.gpt import GPT
from diloco.models.inner_optimizers import inner_optimizers
from diloco.models.layered import LayeredGPT
from diloco.models.text import load_text
from diloco.outer.replica import TensorReplica
from diloco.recipe import InnerSteps
from diloco.settings import RunSettings, Train
from diloco.simulation.pace import Peer
from diloco.simulation.worker import Trainer


def trainer_of(
    settings: RunSettings, train: Train, model: GPT | LayeredGPT, batches: Iterator[tuple[Tensor, Tensor]]
) -> tuple[TensorReplica, Trainer]:
    """What a worker with ``model`` and ``batches`` trains by the method of ``settings``."""
    method = settings.method.resolved()
    optimizers = inner_optimizers(method.inner, model, train)
    step = InnerSteps(model, optimizers, train)
    replica = TensorReplica.of(model, method, optimizers[-1])
    found = replica.layout.manifest()
    elements = tuple(replica.max_sent(f) for f in range(replica.num_fragments))
    trainer = Trainer(
        replica,
        elements,
        lambda: float(step(next(batches))),
        found.names_sha256,
        found.text.encode(),
        buffers=replica.buffers is not None,
    )
    return replica, trainer


def trainers_of(settings: RunSettings) -> Callable[[Peer, int], Trainer]:
    """Trainers for the peers of a scenario: the built-in model on the source text of Python's own library."""
    text, model = load_text(None), settings.model

    def make(peer: Peer, life: int) -> Trainer:
        made = GPT(model.layers, model.heads, model.width, model.context, settings.run.seed)
        name, device = f"{peer.name} in life {life}", torch.device("cpu")
        batches = text.batches(settings.run.seed, name, settings.train.batch_size, model.context, device)
        return trainer_of(settings, settings.train, made, batches)[1]

    return make
