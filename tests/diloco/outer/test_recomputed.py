"""A commit that is computed once more gives the very bits that the commit gave, by every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diloco.outer.replica import TensorReplica
from diloco.outer.tensor_reducer import TensorReducer
from diloco.settings import RunSettings
from tests.diloco.outer.kit import make, train
from tests.diloco.outer.test_claims import METHODS
from transport.collectives.reducer import Part
from transport.digests import digest_of
from transport.effects import EncodedResult


def replica_of(parts: dict[str, Any]) -> tuple[nn.Module, TensorReplica]:
    chosen = RunSettings.model_validate({"method": parts}).method.resolved()
    if chosen.gossips:
        pytest.skip("with gossip each replica has a state of its own")
    model = make(40)
    replica = TensorReplica.of(model, chosen, torch.optim.AdamW(model.parameters(), lr=1e-3))
    replica.outer.keeps_former = True
    return model, replica


def exchange(replica: TensorReplica, fragment: int) -> tuple[TensorReducer, EncodedResult]:
    """One contribution, averaged with itself."""
    made, _ = replica.contribution(fragment)
    assert isinstance(made, TensorReducer)
    made.begin(made.num_elements, 1)
    payload = bytes(made.reduce(0, [Part(0, 1.0, None)]))
    made.accept(0, payload)
    return made, EncodedResult([digest_of(payload)], [payload])


@pytest.mark.parametrize("parts", METHODS, ids=lambda parts: " ".join(str(each) for each in parts.values()))
def test_the_step_that_a_commit_took_is_taken_again_from_the_state_before_it(parts: dict[str, Any]) -> None:
    model, replica = replica_of(parts)
    for count in range(4):
        for fragment in range(replica.num_fragments):
            train(model, count)
            former = replica.digest(fragment)
            made, result = exchange(replica, fragment)
            early = replica.recomputed(fragment, former, result, made.num_elements, 1)
            assert replica.digest(fragment) == former, "nothing moved"
            replica.apply(fragment, made, made, 1.0, keep_old=False)
            replica.land(fragment, made, on_time=not replica.outer.method.delay)
            after = replica.digest(fragment)
            assert after == early, "it may be asked before it has applied the record itself"
            assert replica.recomputed(fragment, former, result, made.num_elements, 1) == after
            assert replica.digest(fragment) == after
            assert replica.recomputed(fragment, b"x" * 32, result, made.num_elements, 1) is None
