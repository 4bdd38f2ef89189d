"""A part and its optimizer attached to a swarm: what is not the run's is refused before anybody is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import diloco
from diloco.errors import LayoutError, PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.cutting import cut
from diloco.pipeline.staging import part_of, stage
from tests.diloco.pipeline.kit import POSITIONS, SEQUENCES, WIDTH, adamw, built, layers, loss_sum
from tests.diloco.pipeline.serving_kit import settings_of

SETTINGS = settings_of((2, 4), 3)
EDGE = Boundary((SEQUENCES, POSITIONS, WIDTH))


def attached(part: Part, **more: Any) -> diloco.Stage:
    model = cut(built(layers()), part)
    given = {
        "boundary": part.ends(EDGE),
        "loss": loss_sum if part.is_last else None,
        "timeout_s": 20.0,
        **more,
    }
    with diloco.solo(SETTINGS) as swarm:
        swarm.ask_stage(part.stage)
        optimizer = more.pop("optimizer", None) or adamw(model.parameters())
        given.pop("optimizer", None)
        return stage(model, optimizer, swarm, part=part, **given)


def test_a_stage_is_attached_as_its_settings_say() -> None:
    made = attached(part_of(SETTINGS, 1))
    assert made.part.part == Part(1, 3, (2, 4))
    assert made.part.nominal_tokens == 3 * SEQUENCES * POSITIONS
    assert made.outer.stage == 1


def test_a_part_of_another_cut_is_refused() -> None:
    with pytest.raises(PipelineError) as caught:
        attached(Part(1, 3, (1, 4)))
    assert str(caught.value) == (
        "the part is stage 1 of 3 with cuts [1, 4], and the run has 3 stages with cuts [2, 4]: build it from"
        " part_of(swarm.settings, N)"
    )


def test_what_does_not_belong_to_a_stage_is_refused() -> None:
    with pytest.raises(PipelineError, match="stage 1 of 3 needs a boundary to the stage above"):
        attached(part_of(SETTINGS, 1), boundary=(EDGE, None))
    with pytest.raises(PipelineError, match="stage 2 of 3 needs a loss"):
        attached(part_of(SETTINGS, 2), loss=None)
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(LayoutError):
        attached(part_of(SETTINGS, 0), optimizer=other)


@pytest.mark.parametrize(("quota", "chosen", "window"), [(5000, 0, 4096), (3, 0, 3), (3, 7, 7)])
def test_no_more_is_under_way_than_others_keep(
    quota: int, chosen: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, seen = settings_of((2, 4), quota, window=chosen), []
    part = part_of(settings, 1)
    model = cut(built(layers()), part)
    with diloco.solo(settings) as swarm:
        swarm.ask_stage(1)
        train = swarm.train
        monkeypatch.setattr(swarm, "train", lambda training: (seen.append(training.stream), train(training)))
        stage(model, adamw(model.parameters()), swarm, part=part, boundary=part.ends(EDGE), timeout_s=20.0)
    assert [each.window for each in seen] == [window]
