"""A line in one process: what fits together, what does not, and that a fault is told and not swallowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diloco.errors import BoundaryError, PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.in_process import Line, LocalStage
from diloco.pipeline.part import RunningPart
from tests.diloco.pipeline.kit import batches, built, layers, line_of, loss_sum


def stage(
    number: int, stages: int, *, model: nn.Module | None = None, quota: int = 2, **other: Any
) -> LocalStage:
    part = Part(number, stages)
    given: dict[str, Any] = {
        "takes": None if part.is_first else Boundary((4, 3)),
        "gives": None if part.is_last else Boundary((4, 3)),
        "loss": loss_sum if part.is_last else None,
        "nominal_tokens": 8,
    }
    running = RunningPart(part, model or nn.Linear(3, 3), **(given | other))
    return LocalStage(running, torch.optim.SGD(running.model.parameters(), lr=0.1), quota=quota)


def test_stages_of_one_model_make_a_line() -> None:
    assert Line([stage(0, 2), stage(1, 2)])


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ([], "a line has a stage at least"),
        ([(1, 2), (0, 2)], "a line has every stage of one model, once and in order, and not 1 of 2, 0 of 2"),
        ([(0, 2)], "and not 0 of 2"),
        ([(0, 2), (1, 3)], "and not 0 of 2, 1 of 3"),
    ],
)
def test_stages_that_are_missing_or_out_of_order_are_refused(stages: Any, text: str) -> None:
    with pytest.raises(PipelineError, match=text):
        Line([stage(*each) for each in stages])


def test_a_boundary_that_does_not_fit_its_neighbours_is_refused() -> None:
    wider, half = Boundary((4, 5)), Boundary((4, 3), torch.bfloat16)
    with pytest.raises(
        PipelineError, match=r"stage 0 gives \[4, 3\] float32 and stage 1 takes \[4, 5\] float32"
    ):
        Line([stage(0, 2), stage(1, 2, takes=wider)])
    with pytest.raises(
        PipelineError, match=r"stage 1 gives \[4, 3\] bfloat16 and stage 2 takes \[4, 3\] float32"
    ):
        Line([stage(0, 3), stage(1, 3, gives=half), stage(2, 3)])


def test_quotas_and_tokens_that_differ_are_refused() -> None:
    with pytest.raises(PipelineError, match="stage 0 has a quota of 2 microbatches of 8 tokens"):
        Line([stage(0, 2), stage(1, 2, quota=3)])
    with pytest.raises(PipelineError, match="stage 1 one of 2 of 9: say the same"):
        Line([stage(0, 2), stage(1, 2, nominal_tokens=9)])
    with pytest.raises(PipelineError, match="an inner step of 0 microbatches"):
        stage(0, 2, quota=0)
    with pytest.raises(PipelineError, match="a window of 0 lets no microbatch through"):
        Line([stage(0, 2), stage(1, 2)], window=0)


def test_weights_that_two_stages_share_are_refused() -> None:
    one = nn.Linear(3, 3)
    with pytest.raises(PipelineError, match="weight of stage 0 and weight of stage 1 are the same weights"):
        Line([stage(0, 2, model=one), stage(1, 2, model=one)])


def test_the_window_bounds_what_is_under_way() -> None:
    line, stages = line_of(built(layers()), (2, 4), 6, window=2)
    held = []

    for each in stages:
        model = each.part.model
        model.register_forward_pre_hook(lambda *_: held.append([s.part.num_held for s in stages]))
    assert len(list(line.run(batches(12)))) == 2
    assert max(map(max, held)) == 2
    assert all(each <= 2 for row in held for each in row)


def test_a_value_that_is_not_finite_ends_the_run_with_the_stage_and_the_microbatch() -> None:
    line, stages = line_of(built(layers()), (2, 4), 2)
    with torch.no_grad():
        stages[1].part.model[0].gate.bias.fill_(float("nan"))
    with pytest.raises(BoundaryError, match=r"what stage 1 made of microbatch 0 has .* not finite"):
        list(line.run(batches(4)))


def test_no_batches_are_no_step() -> None:
    line, _ = line_of(built(layers()), (2, 4), 2)
    assert list(line.run([])) == []


def test_a_step_may_be_of_one_microbatch() -> None:
    line, _ = line_of(built(layers()), (2, 4), 1)
    assert [step.microbatches for step in line.run(batches(3))] == [1, 1, 1]
