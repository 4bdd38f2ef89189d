"""What the formula of stages predicts is what the production protocol does under virtual time."""

from __future__ import annotations

import pytest

from diloco.planning.stages import StageTimes
from diloco.simulation.runner import simulate
from diloco.simulation.scenario import parse_scenario
from diloco.simulation.stages import shapes_of
from tests.diloco.simulation.small_pipeline import small


@pytest.mark.parametrize(
    ("stages", "replicas", "quota", "width"), [(4, 1, 32, 976), (3, 2, 16, 6000), (8, 1, 12, 4000)]
)
def test_an_inner_step_takes_as_long_as_the_formula_says(
    stages: int, replicas: int, quota: int, width: int
) -> None:
    scenario = parse_scenario(
        small(
            stages=stages,
            num_peers=stages * replicas,
            run={"rounds": 1},
            method={"sync_every": 3},
            model={"layers": stages, "width": width},
            pipeline={"quota": quota},
        )
    )
    shape = shapes_of(scenario)[1]
    line_s = 8 * shape.activation_bytes / 100e6
    times = StageTimes(stages, 0.25, 0.75, 0.05, line_s, line_s)
    report = simulate(scenario)
    assert not report.violations
    assert report.microbatches is not None
    steps = [end - begin for _, begin, end in report.microbatches.steps if begin]
    assert steps
    assert steps == [pytest.approx(times.inner_step_s(quota), rel=0.02)] * len(steps)
    assert report.utilization == pytest.approx(times.utilization(quota), rel=0.05)
