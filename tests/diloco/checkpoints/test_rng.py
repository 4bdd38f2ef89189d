"""The generators that a loop draws from without naming one draw on where they were."""

from __future__ import annotations

import random

import numpy as np
import torch

from diloco.checkpoints.rng import GlobalGenerators


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_each_draws_on_where_it_was() -> None:
    generators = GlobalGenerators()
    before = generators.state_dict()
    wanted = draws()
    assert draws() != wanted
    generators.load_state_dict(before)
    assert draws() == wanted
