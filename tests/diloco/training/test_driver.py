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


def test_who_goes_back_keeps_of_an_offer_under_way_what_was_offered_alone() -> None:
    run = diloco.RunSettings.model_validate({"method": {"sync_every": 50, "delay": 5}})
    model = nn.Linear(3, 2)
    with diloco.solo(run) as swarm:
        driver = WorkerDriver(model, [], swarm, None, None)
        driver.enter(30.0)
        loop = driver.session.loop

        def train(tokens: int, steps: int) -> torch.Tensor:
            with torch.no_grad():
                model.weight.sub_(0.25)
            loop.count(tokens, steps)
            return model.weight.detach().clone()

        outer, offered = model.weight.detach().clone(), train(5, 50)
        for command in loop.due(0.0):
            loop.told(command, True)
        train(7, 1)
        driver.go_back()
        assert loop.progress[0].offered is not None
        torch.testing.assert_close(model.weight.detach(), offered)
        assert (loop.progress[0].tokens, loop.tokens_unoffered) == (5, 7)
        loop.progress[0].offered = None  # it was taken back
        driver.go_back()
        assert torch.equal(model.weight, outer)
        assert loop.tokens_unoffered == 12
