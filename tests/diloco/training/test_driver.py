"""A worker's session driven by the clock, without any hook."""

from __future__ import annotations

import torch
from torch import nn

import diloco
from diloco.training.driver import WorkerDriver


def test_steps_that_are_over_lead_to_rounds_and_events_reach_who_asked() -> None:
    run = diloco.RunSettings.model_validate({"run": {"rounds": 2}, "method": {"sync_every": 2}})
    model, seen = nn.Linear(3, 2), []
    with diloco.solo(run) as swarm:
        driver = WorkerDriver(model, [], swarm, seen.append, None)
        driver.enter(30.0)
        for _ in range(4):
            assert not driver.session.finished
            with torch.no_grad():
                model.weight.sub_(0.01)
            driver.stepped(5)
    assert driver.session.finished
    assert driver.session.tokens_by_fate["applied"] == 20
    assert driver.pseudo_grad_norm > 0
    assert driver.num_parameters == 8
    assert type(seen[-1]).__name__ == "RunFinished"
