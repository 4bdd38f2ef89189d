"""`simulation.tensor_trainer`: real steps of the built-in model, and manifests that a swarm can agree on."""

from __future__ import annotations

import pytest

from diloco.settings import RunSettings
from diloco.simulation.pace import Peer
from diloco.simulation.tensor_trainer import trainers_of
from diloco.simulation.worker import Trainer
from tests.diloco.simulation.small_swarm import FAST


def settings(**method: object) -> RunSettings:
    """As small as it can be."""
    return RunSettings.model_validate(
        {
            "model": {"layers": 2, "heads": 1, "width": 8, "context": 8},
            "train": {"batch_size": 2, "warmup_steps": 1, "inner_lr": 0.01},
            "method": {"preset": "diloco", **method},
        }
    )


def losses(trainer: Trainer, count: int) -> list[float]:
    assert trainer.step is not None
    return [trainer.step() for _ in range(count)]


def test_steps_train() -> None:
    found = losses(trainers_of(settings())(Peer("a", FAST), 1), 60)
    assert sum(found[-10:]) < sum(found[:10])


def test_a_peer_draws_the_same_batches_again_in_the_same_life_only() -> None:
    make = trainers_of(settings())
    first = losses(make(Peer("a", FAST), 1), 3)
    assert losses(make(Peer("a", FAST), 1), 3) == first
    assert losses(make(Peer("a", FAST), 2), 3) != first
    assert losses(make(Peer("b", FAST), 1), 3) != first


def test_all_begin_alike_and_agree_on_what_is_exchanged() -> None:
    make = trainers_of(settings())
    a, b = make(Peer("a", FAST), 1), make(Peer("b", FAST), 1)
    assert a.replica.digest(0) == b.replica.digest(0)
    assert (a.names_sha256, a.layout, a.elements) == (b.names_sha256, b.layout, b.elements)
    assert a.names_sha256 != bytes(32)
    other = trainers_of(settings(codec="topk", fragment_pattern="balanced", num_fragments=2))
    assert other(Peer("a", FAST), 1).elements != a.elements


@pytest.mark.parametrize("num_fragments", [1, 2])
def test_every_fragment_has_its_length(num_fragments: int) -> None:
    chosen = settings(fragment_pattern="balanced", num_fragments=num_fragments)
    trainer = trainers_of(chosen)(Peer("a", FAST), 1)
    assert len(trainer.elements) == num_fragments
    reducers = [trainer.replica.receiver(fragment) for fragment in range(num_fragments)]
    assert tuple(each.num_elements for each in reducers) == trainer.elements
