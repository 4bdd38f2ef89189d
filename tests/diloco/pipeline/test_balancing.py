"""Cuts by measured costs: as good as the best of all cuts, tried one by one."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest

from diloco.errors import PipelineError
from diloco.pipeline.balancing import best_cuts, slowest


def worst(costs: list[float], cuts: tuple[int, ...]) -> float:
    return slowest(costs, [range(a, b) for a, b in pairwise((0, *cuts, len(costs)))])


@pytest.mark.parametrize("seed", range(60))
def test_no_other_cuts_have_a_faster_slowest_stage(seed: int) -> None:
    drawn = random.Random(seed)
    costs = [drawn.choice([0.0, 0.5, 1.0, 1.0, 3.0, drawn.random()]) for _ in range(drawn.randint(1, 9))]
    for stages in range(1, len(costs) + 1):
        cuts = best_cuts(costs, stages)
        assert len(cuts) == stages - 1
        assert all(a < b for a, b in pairwise((0, *cuts, len(costs)))), "each stage has a layer"
        least = min(worst(costs, tried) for tried in combinations(range(1, len(costs)), stages - 1))
        assert worst(costs, cuts) == pytest.approx(least, abs=1e-12)


def test_a_thousand_layers_are_cut_at_once() -> None:
    cuts = best_cuts([1.0] * 1000, 64)
    assert worst([1.0] * 1000, cuts) == 16


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(PipelineError, match="3 stages of 2 layers are not possible: choose 1 to 2 stages"):
        best_cuts([1.0, 1.0], 3)
