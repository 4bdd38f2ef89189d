"""Recipes with an argument `part`: the same file trains the whole model, or each of its stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diloco.cli.app import app
from diloco.cli.usage import run_app
from diloco.errors import RecipeError
from diloco.pipeline.cuts import Part
from diloco.pipeline.in_process import Line, LocalStage
from diloco.pipeline.part import RunningPart
from diloco.recipe import Job, job_of, load_recipe
from diloco.settings import RunSettings
from tests.diloco.pipeline.kit import TOKENS, Plain, batches, layers, parameters_of, same_bits

CPU = torch.device("cpu")
MINE = """
import torch
from diloco import Part, cut
from diloco.pipeline.boundary import Boundary
from diloco.recipe import Job
from tests.diloco.pipeline.kit import adamw, batches, layers, loss_sum

def mine(settings, data_path, device, worker_salt, part):
    torch.manual_seed(settings.run.seed)
    model = cut([make() for make in layers()], part).to(device)
    return Job(
        model=model, optimizer=adamw(model.parameters()), batches=iter(batches(6)), tokens_per_step=1,
        **dict.fromkeys(("step", "evaluate", "sample"), None if part.stages > 1 else print),
        boundary=part.ends(Boundary((3, 5, 8))), loss=loss_sum if part.is_last else None,
    )

def whole(settings, data_path, device, worker_salt):
    return worker_salt
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    path = tmp_path / "recipes.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_a_recipes_stages_train_as_its_whole_model(recipes: Path) -> None:
    mine = load_recipe(f"{recipes}:mine")
    stages = []
    for number in range(3):
        part = Part(number, 3, (1, 4))
        job: Job = job_of(mine, RunSettings(), None, CPU, "", part)
        takes, gives = job.boundary
        running = RunningPart(
            part, job.model, takes=takes, gives=gives, loss=job.loss, nominal_tokens=3 * TOKENS
        )
        stages.append(LocalStage(running, job.optimizer, quota=3))
    assert len(list(Line(stages).run(job.batches))) == 2
    whole = job_of(mine, RunSettings(), None, CPU, "").model.state_dict()
    assert set(whole) == set(parameters_of(stages)), "without a stage it is the whole model"
    torch.manual_seed(RunSettings().run.seed)
    plain = Plain([make() for make in layers()], 3)
    for at in (0, 3):
        plain.step(batches(6)[at : at + 3])
    assert same_bits(parameters_of(stages), plain.model.state_dict())
    assert not same_bits(whole, plain.model.state_dict())


def test_a_recipe_of_whole_models_has_no_stages(recipes: Path) -> None:
    whole = load_recipe(f"{recipes}:whole")
    with pytest.raises(RecipeError, match="recipe whole returned str"):
        job_of(whole, RunSettings(), None, CPU, "salt")  # it is called, without a part
    with pytest.raises(RecipeError) as caught:
        job_of(whole, RunSettings(), None, CPU, "salt", Part(1, 2))
    assert str(caught.value) == (
        "recipe whole cannot build one of 2 stages: give it an argument `part`, and let it build"
        " diloco.cut(layers, part)"
    )


def test_a_host_refuses_a_recipe_without_parts_before_it_listens_and_makes_nothing(
    recipes: Path, tmp_path: Path
) -> None:
    (tmp_path / "RUN.toml").write_text("[pipeline]\nstages = 2\ncuts = [1]\n[model]\ntied = false\n")
    words = ["host", str(tmp_path / "RUN.toml"), "--train", "--state", str(tmp_path / "s"), "--recipe"]
    with pytest.raises(RecipeError, match="recipe whole cannot build one of 2 stages"):
        run_app(app, [*words, f"{recipes}:whole"])
    assert not (tmp_path / "s").exists()
