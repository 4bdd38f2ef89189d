"""A commit that is computed once more from bytes gives the bits that the commit gave, by every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diloco.errors import StateError
from diloco.methods.spec import Method
from diloco.outer.recomputation import TensorRecomputer, shapes_of
from diloco.outer.replica import Snapshot, TensorReplica
from diloco.outer.tensor_reducer import TensorReducer
from diloco.settings import RunSettings
from tests.diloco.outer.kit import make, train
from tests.diloco.outer.test_claims import METHODS
from transport.collectives.reducer import Part

CHUNK = 64


def method_of(parts: dict[str, Any]) -> Method:
    chosen = RunSettings.model_validate({"method": parts}).method.resolved()
    if chosen.gossips:
        pytest.skip("with gossip each replica has a state of its own")
    return chosen


def replica_of(method: Method, seed: int = 0) -> tuple[nn.Sequential, TensorReplica]:
    """With a frozen parameter, which belongs to the last fragment's state."""
    model = make(40, seed)
    model.append(nn.Linear(3, 3))
    for parameter in model[-1].parameters():
        parameter.requires_grad_(False)
    replica = TensorReplica.of(model, method, torch.optim.AdamW(model.parameters(), lr=1e-3))
    replica.outer.keeps_former = True
    return model, replica


def exchange(replica: TensorReplica, fragment: int) -> tuple[TensorReducer, list[bytes]]:
    """One contribution, averaged with itself."""
    made, _ = replica.contribution(fragment)
    assert isinstance(made, TensorReducer)
    made.begin(CHUNK, 1)
    chunks = [bytes(made.reduce(c, [Part(0, 1.0, None)])) for c in range(-(-made.num_elements // CHUNK))]
    for chunk, payload in enumerate(chunks):
        made.accept(chunk, payload)
    return made, chunks


def bytes_in(blob: Snapshot | None) -> bytearray:
    assert blob is not None
    return bytearray(b"".join(bytes(blob.piece(i)) for i in range(len(blob.digests))))  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", METHODS, ids=lambda parts: " ".join(str(each) for each in parts.values()))
def test_the_step_that_a_commit_took_is_taken_again_from_the_state_before_it(parts: dict[str, Any]) -> None:
    method = method_of(parts)
    model, replica = replica_of(method)
    layout, recomputer = replica.layout.manifest().text, TensorRecomputer(method)
    for count in range(4):
        for fragment in range(replica.num_fragments):
            train(model[:2], count)
            former, before = replica.digest(fragment), replica.check(fragment)
            made, chunks = exchange(replica, fragment)
            replica.apply(fragment, made, made, 1.0, keep_old=False)
            replica.land(fragment, made, on_time=not method.delay)
            after = replica.digest(fragment)
            held = bytes_in(replica.state_blob(fragment, former))
            found = recomputer.computed(layout, fragment, held, chunks, CHUNK, 1)
            assert found == (before, replica.check(fragment), after)
            assert replica.digest(fragment) == after, "nothing moved"


def test_a_worker_that_fetched_its_state_has_none_from_before_it_and_one_that_took_a_step_has() -> None:
    method = method_of({"preset": "diloco"})
    (model, donor), (_, joiner) = replica_of(method), replica_of(method, seed=7)
    before = donor.digest(0)
    for count in range(2):
        train(model[:2], count)
        former = donor.digest(0)
        made, _ = exchange(donor, 0)
        donor.apply(0, made, made, 1.0, keep_old=False)
        donor.land(0, made, on_time=True)
    now = donor.digest(0)
    assert donor.state_blob(0, former) is not None
    assert donor.state_blob(0, before) is None, "one version back is kept"
    joiner.load(0, bytes_in(donor.state_blob(0, now)))
    assert joiner.digest(0) == now
    assert joiner.state_blob(0, former) is None


def test_a_state_that_somebody_fetches_is_not_written_over_two_steps_later() -> None:
    method = method_of({"preset": "diloco"})
    model, replica = replica_of(method)
    blobs = {}
    for count in range(4):
        name = replica.digest(0)
        blob = replica.state_blob(0, name)
        blobs[name] = blob, bytes_in(blob)
        train(model[:2], count)
        made, _ = exchange(replica, 0)
        replica.apply(0, made, made, 1.0, keep_old=False)
        replica.land(0, made, on_time=True)
    assert [bytes_in(blob) == held for blob, held in blobs.values()] == [True] * 4


def test_two_states_take_turns_where_nobody_fetches_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diloco.compression.memory.SMALL", 0)  # the allocator may give any memory
    method = method_of({"preset": "diloco"})
    model, replica = replica_of(method)
    places = set()
    for count in range(6):
        train(model[:2], count)
        made, _ = exchange(replica, 0)
        replica.apply(0, made, made, 1.0, keep_old=False)
        replica.land(0, made, on_time=True)
        replica.digest(0)
        places.add(replica.outer.outer_parameters(0).data_ptr())
    assert len(places) == 2


def test_what_is_no_such_state_or_result_is_refused() -> None:
    method = method_of({"preset": "diloco"})
    model, replica = replica_of(method)
    layout, recomputer = replica.layout.manifest().text, TensorRecomputer(method)
    train(model[:2], 0)
    state = bytes_in(replica.state_blob(0, replica.digest(0)))
    _, chunks = exchange(replica, 0)
    with pytest.raises(StateError, match="at least are due"):
        recomputer.computed(layout, 0, state[:100], chunks, CHUNK, 1)
    with pytest.raises(StateError, match="chunks of a vector"):
        recomputer.computed(layout, 0, bytearray(state), chunks[1:], CHUNK, 1)
    with pytest.raises(StateError, match="does not decode"):
        recomputer.computed(layout, 0, bytearray(state), [b"x", *chunks[1:]], CHUNK, 1)


def test_shapes_are_read_from_the_text_of_a_layout() -> None:
    text = "0 a.weight 8x4 float32\n1 b scalar bfloat16\n1 odd name 2x3x4 float32\nfrozen c 2 float32\n"
    assert shapes_of(text, 0) == [(8, 4)]
    assert shapes_of(text, 1) == [(), (2, 3, 4)]
    for wrong in ("0 a.weight eight float32", "", "0"):
        with pytest.raises(StateError):
            shapes_of(wrong, 0)
