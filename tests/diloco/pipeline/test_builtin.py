"""The built-in recipe in stages: one process of all layers, bit for bit, and what it refuses."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diloco.errors import PipelineError
from diloco.models.gpt import GPTSizes
from diloco.models.layered import LayeredGPT, cross_entropy_sum
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.boundary_codecs import BoundaryCodec
from diloco.pipeline.cuts import Part
from diloco.pipeline.in_process import Line, LocalStage
from diloco.pipeline.part import RunningPart
from diloco.recipe import Job, gpt, job_of
from diloco.settings import RunSettings
from tests.diloco.pipeline.kit import parameters_of, same_bits

CPU = torch.device("cpu")
QUOTA, CUTS = 3, (1, 2)


def settings_of(**model: Any) -> RunSettings:
    return RunSettings.model_validate(
        {
            "model": {"layers": 2, "heads": 2, "width": 16, "context": 8, "tied": False, **model},
            "pipeline": {"stages": 3, "cuts": list(CUTS), "microbatch": 2, "quota": QUOTA},
            "train": {"warmup_steps": 4},
        }
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(256)) * 20)
    return path


def job(text: Path, stage: int, **model: Any) -> Job:
    return job_of(gpt, settings_of(**model), text, CPU, "salt", Part(stage, 3, CUTS))


@pytest.mark.parametrize("waist", [0, 6])
def test_its_stages_train_as_one_process(text: Path, waist: int) -> None:
    jobs = [job(text, stage, waist=waist) for stage in range(3)]
    stages = []
    for number, each in enumerate(jobs):
        takes, gives = each.boundary
        running = RunningPart(
            Part(number, 3, CUTS),
            each.model,
            takes=takes,
            gives=gives,
            loss=each.loss,
            nominal_tokens=each.tokens_per_step,
        )
        assert isinstance(each.optimizer, torch.optim.Optimizer)
        stages.append(LocalStage(running, each.optimizer, quota=QUOTA, apply=each.apply))
    drawn = [next(jobs[0].batches) for _ in range(3 * QUOTA)]
    assert len(list(Line(stages).run(drawn))) == 3

    whole = LayeredGPT(GPTSizes(layers=2, heads=2, width=16, context=8, waist=waist), 0)
    assert set(whole.state_dict()) == set(parameters_of(stages))
    matrices = [p for p in whole.parameters() if p.dim() >= 2]
    others = [p for p in whole.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99))
    all_values = sum(p.numel() for p in whole.parameters())
    for step in range(3):
        optimizer.zero_grad()
        for x, targets in drawn[step * QUOTA : (step + 1) * QUOTA]:
            (cross_entropy_sum(whole(x), targets)[0] / (QUOTA * 2 * 8)).backward()
        for first, end in pairwise((0, *CUTS, len(whole))):
            own = [p for layer in list(whole)[first:end] for p in layer.parameters()]
            nn.utils.clip_grad_norm_(own, 1.0 * math.sqrt(sum(p.numel() for p in own) / all_values))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (step + 1) / 4
        optimizer.step()
    assert same_bits(parameters_of(stages), whole.state_dict())


def test_only_the_first_part_reads_text_and_only_the_last_has_a_loss(text: Path) -> None:
    first, middle, last = (job(text, stage) for stage in range(3))
    assert next(first.batches)[0].shape == (2, 8)
    assert len(first.validation) == 8
    assert not list(middle.batches)
    assert (first.loss, middle.loss) == (None, None)
    assert last.loss is not None
    assert middle.boundary[0] == first.boundary[1] == middle.boundary[1] == last.boundary[0]
    assert len(middle.layers) == 4
    missing = text.parent / "nothing"
    job_of(gpt, settings_of(), missing, CPU, "salt", Part(1, 3, CUTS))  # whoever feeds nothing needs no text


def test_tied_weights_and_more_stages_than_layers_are_refused(text: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        job(text, 1, tied=True)
    assert str(caught.value) == (
        "model.tied = true: the embedding of stage 0 and the head of stage 2 would be the same weights;"
        " set model.tied = false in the file of the run"
    )
    with pytest.raises(PipelineError, match="5 stages of 4 layers are not possible: choose 1 to 4 stages"):
        job_of(gpt, settings_of(), text, CPU, "salt", Part(0, 5))


def test_the_boundary_of_a_waist_has_its_channels_and_the_bytes_as_integers(text: Path) -> None:
    below, above = job(text, 1, waist=6).boundary
    assert below == above == Boundary((2, 8, 7), ids=256)
    codec = BoundaryCodec(below, "int8")
    assert (codec.activation_bytes, codec.gradient_bytes) == (16 * (6 + 4 + 1), 16 * (6 + 4))


@pytest.mark.parametrize("waist", [0, 6])
def test_untied_it_trains_whole_too(text: Path, waist: int) -> None:
    made = job_of(gpt, settings_of(waist=waist), text, CPU, "salt")
    before = made.evaluate()
    for _ in range(20):
        made.step(next(made.batches))
    assert made.evaluate() < before
    assert isinstance(made.sample(), str)


def test_a_part_without_matrices_inside_leaves_muon_out(text: Path) -> None:
    settings = settings_of().model_copy(
        update={"method": RunSettings.model_validate({"method": {"preset": "muloco"}}).method}
    )
    first = job_of(gpt, settings, text, CPU, "salt", Part(0, 3, CUTS))
    assert isinstance(first.optimizer, torch.optim.AdamW)
    middle = job_of(gpt, settings, text, CPU, "salt", Part(1, 3, CUTS))
    assert isinstance(middle.optimizer, list)
    assert [type(each).__name__ for each in middle.optimizer] == ["Muon", "AdamW"]
