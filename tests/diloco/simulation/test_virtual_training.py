"""`simulation.virtual_training`: each worker takes its steps, every exchange ends, and links cost nothing."""

from __future__ import annotations

import pytest

from diloco.errors import NonFiniteContribution, TrainingDiverged
from diloco.simulation.pace import Peer
from diloco.simulation.virtual_training import FAST, SimulatedTraining
from diloco.simulation.worker import Worker
from tests.diloco.simulation.small_swarm import EVERY, settings, trains
from transport.collectives.reducer import Reducer
from transport.simnet.links import Access


def training(num_steps: int, access: Access = FAST) -> tuple[SimulatedTraining, list[tuple[int, int]]]:
    """Two workers; and who has taken how many steps, each time that somebody took one."""
    seen: list[tuple[int, int]] = []

    def on_step(index: int, worker: Worker) -> None:
        seen.append((index, worker.session.steps))

    trainers = [trains(Peer(f"w{index}", access), 1) for index in range(2)]
    made = SimulatedTraining(
        settings(rounds=100), trainers, num_steps, tokens_per_step=5, on_step=on_step, access=access
    )
    return made, seen


def test_each_worker_takes_its_steps_and_is_told_of_each() -> None:
    made, seen = training(2 * EVERY)
    made.run()
    for index, worker in enumerate(made.workers):
        assert worker.session.steps == 2 * EVERY
        assert worker.session.tokens == 5 * 2 * EVERY
        assert [steps for who, steps in seen if who == index] == list(range(1, 2 * EVERY + 1))


def test_every_exchange_has_ended_also_that_of_the_last_step() -> None:
    made, _ = training(2 * EVERY)
    made.run()
    assert made.exchanges == {"w0": 2, "w1": 2}
    assert [worker.session.tokens_by_fate["applied"] for worker in made.workers] == [5 * 2 * EVERY] * 2


def test_links_cost_nothing_beside_steps() -> None:
    made, _ = training(2 * EVERY)
    made.run()
    assert max(worker.session.waited_s for worker in made.workers) < 0.01
    assert made.engine.net.now == pytest.approx(2 * EVERY, abs=2.0)


def test_a_worker_that_diverges_ends_the_training_with_its_error() -> None:
    def contribution(fragment: int) -> tuple[Reducer, float]:
        raise NonFiniteContribution(3, "values are not finite")

    trainers = [trains(Peer(f"w{index}", FAST), 1) for index in range(2)]
    trainers[0].replica.contribution = contribution  # type: ignore[method-assign]
    made = SimulatedTraining(settings(rounds=100), trainers, 20 * EVERY)
    with pytest.raises(TrainingDiverged, match="5th time in a row"):
        made.run()
    assert made.workers[1].session.steps == 20 * EVERY, "the other one went on"


def test_a_swarm_that_comes_to_no_end_is_told_by_name() -> None:
    made, _ = training(3, Access(up=1.0, down=1.0, latency_s=1.0, jitter=0.0))
    with pytest.raises(RuntimeError, match=r"did not come to an end in 160 simulated seconds"):
        made.run()
