"""A part is tried on values of its own: one that is broken is told from one whose neighbours are, and it
stays as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart
from diloco.pipeline.probing import makes_nothing
from tests.diloco.pipeline.kit import POSITIONS, SEQUENCES, WIDTH, Mixer, loss_sum

TARGETS = (SEQUENCES, POSITIONS)
IDS = torch.zeros(TARGETS, dtype=torch.long)


class BadBackward(nn.Linear):
    """Forward of it is finite."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mul(0).sqrt()


def made(stage: int, layer: nn.Module, **more: Any) -> RunningPart:
    part, ids = Part(stage, 3, (1, 2)), more.pop("ids", 0)
    takes, gives = part.ends(Boundary((SEQUENCES, POSITIONS, WIDTH), ids=ids))
    loss = more.pop("loss", loss_sum) if part.is_last else None
    return RunningPart(part, layer, takes=takes, gives=gives, loss=loss, nominal_tokens=30, **more)


LAYERS = (nn.Embedding(11, WIDTH), Mixer(0.2), nn.Linear(WIDTH, 11))


@pytest.mark.parametrize("stage", range(3))
def test_a_sound_part_makes_something_and_one_whose_parameters_are_not_finite_nothing(stage: int) -> None:
    part = made(stage, deepcopy(LAYERS[stage]))
    assert not makes_nothing(part, IDS, TARGETS)
    with torch.no_grad():
        next(part.model.parameters()).fill_(torch.nan)
    assert makes_nothing(part, IDS, TARGETS)


def test_a_part_whose_backward_is_not_finite_makes_nothing() -> None:
    assert makes_nothing(made(1, BadBackward(WIDTH, WIDTH)), None, TARGETS)


def test_a_loss_that_takes_no_classes_is_the_parts_own() -> None:
    def shifted(output: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return loss_sum(output, targets + 100)

    assert makes_nothing(made(2, deepcopy(LAYERS[2]), loss=shifted), None, TARGETS)


class Second(nn.Linear):
    """Hands on the column of ids."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x[..., :-1]), x[..., -1:]], dim=-1)


def test_a_boundary_with_ids_is_given_ids() -> None:
    assert not makes_nothing(made(1, Second(WIDTH - 1, WIDTH - 1), ids=4), None, TARGETS)


@pytest.mark.parametrize("how", [{}, {"recompute": False}, {"recompute": False, "split_backward": True}])
def test_the_part_goes_on_as_if_it_had_not_been_tried(how: Any) -> None:
    found = []
    for tries in (False, True):
        torch.manual_seed(0)
        part = made(1, Mixer(0.2), **how)
        x = torch.randn(SEQUENCES, POSITIONS, WIDTH)
        for name in (MicrobatchId(b"f", 0, 0), MicrobatchId(b"f", 0, 1)):
            part.forward(name, x)
            if tries:
                makes_nothing(part, None, TARGETS)
            part.backward(name, x)
            if part.split_backward:
                part.weight_backward(name)
        assert part.model.training
        assert part.num_held == 0
        found.append([p.grad for p in part.model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
