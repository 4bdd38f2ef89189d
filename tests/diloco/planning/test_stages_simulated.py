"""What the formula of stages predicts is what the production protocol does under virtual time."""

from __future__ import annotations

import pytest

from diloco.planning.stages import StageTimes
from tests.diloco.planning.staged_swarm import StagedEngine, StageWorker


@pytest.mark.parametrize(("stages", "replicas", "quota", "line_s"), [(4, 1, 32, 0.08), (3, 2, 16, 0.5)])
def test_utilization_is_within_5_per_cent_of_the_formula(
    stages: int, replicas: int, quota: int, line_s: float
) -> None:
    times = StageTimes(stages, 1.0, 2.0, 0.05, line_s, line_s)
    engine = StagedEngine(times, replicas, quota, rounds=2)
    engine.begin()
    assert engine.run(1e5, lambda: engine.host.coordinator is not None and engine.host.coordinator.finished)
    assert len(engine.workers) == stages * replicas
    for worker in engine.workers.values():
        assert isinstance(worker, StageWorker)
        assert worker.session.steps == 16
        assert worker.busy_s / engine.net.now == pytest.approx(times.utilization(quota), rel=0.05)
        assert worker.counts["partial"] == worker.counts["lost"] == 0
