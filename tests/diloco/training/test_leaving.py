"""A Trainer's loop that ends within a round: the model holds what all agreed on, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import diloco
from diloco.training.leaving import leave
from diloco.training.lending import Lent
from diloco.training.outer import Outer

EVERY, START = 5, 8.0
RUN = diloco.RunSettings.model_validate(
    {
        "run": {"rounds": 2, "min_peers": 1},
        "method": {"preset": "diloco", "sync_every": EVERY, "codec": "fp32", "outer_lr": 1.0},
    }
)


class Worker:
    """Each inner step takes 1 from all that it has."""

    def __init__(self, swarm: diloco.Swarm, model: nn.Linear | None = None) -> None:
        self.model = model or nn.Linear(1, 1, bias=False)
        if model is None:
            nn.init.constant_(self.model.weight, START)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.outer: Outer = diloco.attach(self.model, self.optimizer, swarm, timeout_s=30.0)

    def step(self, times: int) -> None:
        for _ in range(times):
            self.model.weight.grad = torch.ones_like(self.model.weight)
            self.optimizer.step()

    @property
    def value(self) -> float:
        return self.model.weight.item()

    @property
    def shared(self) -> Tensor:
        return self.outer.replica.outer.outer_parameters(0)


def test_who_trains_again_goes_on_from_its_own_parameters_with_all_its_steps() -> None:
    with diloco.solo(RUN) as swarm:
        first = Worker(swarm)
        first.step(3)
        leave(first.outer)
        assert first.value == START
        again = Worker(swarm, first.model)
        assert again.value == START - 3
        again.step(2)
        assert again.shared.tolist() == [START - 5 * (1 + again.outer.method.outer_momentum)]
        assert again.outer.tokens_by_fate["applied"] == 5


def test_what_is_kept_of_it_on_the_disk_are_its_own_parameters(tmp_path: Path) -> None:
    where = {"listen": "tcp://127.0.0.1:0", "state": tmp_path}
    with diloco.host(RUN, **where) as swarm:  # type: ignore[arg-type]
        first = Worker(swarm)
        first.step(3)
        leave(first.outer)
    assert first.value == START
    with diloco.host(RUN, **where) as swarm:  # type: ignore[arg-type]
        again = Worker(swarm)
        assert (again.value, again.outer.step) == (START - 3, 3)


def test_a_model_that_was_lent_when_the_loop_was_interrupted_comes_back_too() -> None:
    with diloco.solo(RUN) as swarm:
        first = Worker(swarm)
        first.step(3)
        first.outer.driver.leave(Lent(first.outer.replica))
        assert first.value == START
        assert Worker(swarm, first.model).value == START - 3


@pytest.mark.parametrize("was_lent", [False, True])
def test_a_best_checkpoint_stays_in_the_model_and_is_not_taken_for_training(was_lent: bool) -> None:
    with diloco.solo(RUN) as swarm:
        first = Worker(swarm)
        first.step(3)
        lent = Lent(first.outer.replica) if was_lent else None
        nn.init.constant_(first.model.weight, 99.0)  # the Trainer loads it
        leave(first.outer, lent, keeps_model=True)
        assert first.value == 99.0
        again = Worker(swarm, first.model)
        assert again.value == START - (3 if was_lent else 0)
        assert again.outer.tokens_by_fate["superseded"] == (0 if was_lent else 3)


def test_behind_a_run_that_is_over_the_model_is_what_it_is_to_be() -> None:
    with diloco.solo(RUN) as swarm:
        worker = Worker(swarm)
        worker.step(2 * EVERY)
        assert worker.outer.finished
        nn.init.constant_(worker.model.weight, 99.0)
        leave(worker.outer, keeps_model=True)
        assert worker.value == 99.0
        leave(worker.outer)
        assert worker.value == worker.shared.item()
