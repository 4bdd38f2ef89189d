"""A model in stages over real sockets: who joins is given a stage, builds it, and trains; what comes out
is what one process computes, bit for bit."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import diloco
from diloco.checkpoints.sharded import INDEX
from diloco.cli.train_stage import StageOutcome, make_part, train_stage
from diloco.interrupts import Interrupts
from diloco.models.gpt import GPTSizes
from diloco.models.inner_optimizers import inner_optimizers, lr_share, step_all
from diloco.models.layered import LayeredGPT, cross_entropy_sum
from diloco.models.text import load_text
from diloco.monitoring.event_log import EventLog
from diloco.pipeline.cutting import clip_share
from diloco.pipeline.staging import part_of
from diloco.recipe import gpt
from diloco.settings import RunSettings

ROUNDS, STEPS, QUOTA, SEQUENCES = 2, 2, 3, 2
SETTINGS = RunSettings.model_validate(
    {
        "run": {"rounds": ROUNDS, "min_peers": 1, "failure_timeout_s": 4.0, "grace_s": 4.0},
        "method": {"preset": "local_sgd", "sync_every": STEPS, "codec": "fp32"},
        "model": {"layers": 2, "heads": 2, "width": 32, "context": 16, "tied": False},
        "pipeline": {"stages": 2, "microbatch": SEQUENCES, "quota": QUOTA, "activations": "fp32"},
        "train": {"warmup_steps": 3},
    }
)


def twin(text: Path, salt: str) -> nn.Module:
    """One process that accumulates the same microbatches; both stages clip by themselves."""
    sizes = SETTINGS.model
    model = LayeredGPT(GPTSizes(sizes.layers, sizes.heads, sizes.width, sizes.context), SETTINGS.run.seed)
    optimizers = inner_optimizers("adamw", model, SETTINGS.train)
    batches = load_text(text).batches(SETTINGS.run.seed, salt, SEQUENCES, sizes.context)
    layers = list(model)
    parts = [part_of(SETTINGS, stage) for stage in range(2)]
    runs = parts[0].all_layers([sum(p.numel() for p in each.parameters()) for each in layers])
    shared = {name: each.clone() for name, each in model.state_dict().items()}
    for step in range(ROUNDS * STEPS):
        model.zero_grad()
        for _ in range(QUOTA):
            x, targets = next(batches)
            (cross_entropy_sum(model(x), targets)[0] / (QUOTA * SEQUENCES * sizes.context)).backward()
        for part, run in zip(parts, runs, strict=True):
            own = [p for layer in layers[run.start : run.stop] for p in layer.parameters()]
            nn.utils.clip_grad_norm_(own, SETTINGS.train.clip_norm * clip_share(layers, part))
        step_all(optimizers, SETTINGS.train.inner_lr * lr_share(step, SETTINGS.train.warmup_steps))
        if (
            step + 1
        ) % STEPS == 0:  # a round of one worker: its pseudo-gradient, and a step of length 1 by it
            local = model.state_dict()
            shared = {name: each - (each - local[name]) for name, each in shared.items()}
            model.load_state_dict(shared)
    return model


def saved(folder: Path) -> dict[str, torch.Tensor]:
    weights = json.loads((folder / INDEX).read_text())["weight_map"]
    return {name: load_file(folder / file)[name] for name, file in weights.items()}


def train(
    ticket: str, name: str, text: Path, out: Path, ended: dict[int, StageOutcome], salts: list[str]
) -> None:
    """What `diloco join` does."""
    with diloco.join(ticket, listen="tcp://127.0.0.1:0", name=name) as swarm:
        part, job = make_part(gpt, swarm, text, "cpu", None)
        if part.is_first:
            salts.append(swarm.peer_name)
        log, interrupts = EventLog(None), Interrupts()
        ended[part.stage] = train_stage(swarm, part, job, log=log, interrupts=interrupts, save=out)


def test_two_stages_train_over_sockets_as_one_process_bit_for_bit(tmp_path: Path) -> None:
    text, out = tmp_path / "text", tmp_path / "model"
    text.write_bytes(Path(json.__file__).read_bytes())
    torch.set_num_threads(1)
    ended: dict[int, StageOutcome] = {}
    salts: list[str] = []
    with diloco.host(SETTINGS, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host:
        threads = [
            threading.Thread(target=train, args=(host.ticket, name, text, out, ended, salts)) for name in "ab"
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(50)
    assert sorted(ended) == [0, 1], "each was given a stage"
    found, wanted = saved(out), twin(text, salts[0]).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    fed = ROUNDS * STEPS * QUOTA
    assert all(each.counted >= fed for each in ended.values()), "and what came until the end was told"
    assert all(each.tokens_by_fate["applied"] == fed * SEQUENCES * 16 for each in ended.values())
    assert ended[0].settled >= fed, "others that were fed for no step any more may find that a stage has left"
    assert ended[0].validation is not None
    assert ended[0].validation_round == ROUNDS - 1, "the last one is evaluated too"
