"""Numbers without numbers: equal histories are equal states, others differ, and sizes are the real ones."""

from __future__ import annotations

import pytest

from diloco.methods.presets import method
from diloco.simulation.phantom import (
    PhantomReplica,
    PhantomVector,
    fragment_sizes,
    phantom_limits,
    sent_elements,
    state_bytes,
)
from transport.collectives.reducer import Part
from transport.effects import Phantom, PhantomBlob
from transport.limits import LIMITS, MIB

DILOCO = method("diloco", codec="fp32")


def replica(name: str) -> PhantomReplica:
    return PhantomReplica(DILOCO, 1000, None, name, MIB)


def mean_of(*replicas: PhantomReplica) -> PhantomVector:
    """What everyone gets who exchanges with them."""
    first, *others = [each.contribution(0)[0] for each in replicas]
    for vector in (first, *others):
        vector.begin(1000, len(replicas))
    parts = [Part(0, 0.5, None), *(Part(i + 1, 0.5, vector.encode(0)) for i, vector in enumerate(others))]
    payload = first.reduce(0, parts)
    received = replicas[0].receiver(0)
    assert isinstance(received, PhantomVector)
    received.begin(1000, len(replicas))
    received.accept(0, payload)
    return received


def apply(to: PhantomReplica, mean: PhantomVector) -> None:
    to.apply(0, mean, None, 0.5, keep_old=False)


def test_workers_begin_equal_and_stay_so_by_equal_means() -> None:
    a, b = replica("a"), replica("b")
    assert a.digest(0) == b.digest(0)
    mean = mean_of(a, b)
    apply(a, mean)
    assert a.digest(0) != b.digest(0)
    apply(b, mean)
    assert a.digest(0) == b.digest(0)
    assert a.count(0) == 1


def test_another_mean_is_another_state_and_so_is_the_same_mean_twice() -> None:
    a, b, c = replica("a"), replica("b"), replica("c")
    mean = mean_of(a, b)
    apply(a, mean)
    apply(b, mean_of(a, c))
    assert a.digest(0) != b.digest(0)
    once = a.digest(0)
    apply(a, mean)
    assert a.digest(0) != once
    apply(b, mean)
    assert a.digest(0) != b.digest(0), "what came before counts"


def test_a_contribution_is_named_by_its_worker_and_by_what_it_builds_on() -> None:
    def label(of: PhantomReplica) -> bytes:
        vector, norm = of.contribution(0)
        vector.begin(1000, 1)
        payload = vector.encode(0)
        assert isinstance(payload, Phantom)
        assert norm == 1.0
        return payload.digest

    a, b = replica("a"), replica("b")
    before = label(a)
    assert before == label(replica("a"))
    assert before != label(b)
    apply(a, mean_of(a, b))
    assert label(a) != before


def test_who_loads_a_state_equals_its_donor_with_the_count_of_outer_steps() -> None:
    donor, joiner = replica("a"), replica("j")
    for _ in range(3):
        apply(donor, mean_of(donor, replica("b")))
    assert donor.state_blob(0, joiner.digest(0)) is None, "it is asked for another state"
    state = donor.state_blob(0, donor.digest(0))
    assert state is not None
    buffer = joiner.state_buffer(0)
    assert isinstance(buffer, PhantomBlob)
    for index in range(len(state.digests)):
        buffer.put(index, state.piece(index), b"digest")
    joiner.load(0, buffer)
    assert joiner.digest(0) == donor.digest(0)
    assert joiner.count(0) == 3


def test_an_outer_step_of_two_exchanges_counts_once_and_a_joiner_knows_which_is_next() -> None:
    worker, joiner = (PhantomReplica(method("dilocox"), 1000, None, name, MIB) for name in "ab")
    seen = []
    for _ in range(3):
        seen.append((worker.sketches(0), worker.count(0)))
        apply(worker, mean_of(worker, joiner))
    assert seen == [(True, 0), (False, 0), (True, 1)]
    state, buffer = worker.state_blob(0, worker.digest(0)), joiner.state_buffer(0)
    assert state is not None
    assert isinstance(buffer, PhantomBlob)
    for index in range(len(state.digests)):
        buffer.put(index, state.piece(index), b"digest")
    joiner.load(0, buffer)
    assert (joiner.sketches(0), joiner.count(0), joiner.digest(0)) == (False, 1, worker.digest(0))
    assert not replica("a").sketches(0)


def test_fragments_are_even_or_of_whole_layers_and_lose_no_parameter() -> None:
    assert fragment_sizes(method("diloco", num_fragments=3), 1000, None) == (334, 333, 333)
    layered = fragment_sizes(
        method("streaming", num_fragments=3, fragment_pattern="sequential"), 1003, layers=10
    )
    assert sum(layered) == 1003
    assert [size // 100 for size in layered] == [4, 3, 3]
    averaged_moments = fragment_sizes(method("des_loc"), 1000, None)
    assert averaged_moments == (1000,) * len(averaged_moments)
    assert len(averaged_moments) > 1


def test_gossip_sends_parameters_beside_pseudo_gradients_and_a_joiner_fetches_all_vectors() -> None:
    assert sent_elements(method("noloco"), 1000) == 2000
    assert sent_elements(DILOCO, 1000) == 1000
    assert state_bytes(DILOCO, 1000) == 4 * 1000 * 2, "outer parameters and momentum"
    assert state_bytes(method("local_sgd"), 1000) == 4 * 1000
    assert state_bytes(method("dilocox"), 10**6) == pytest.approx(4e6 * (2 + 0.4), rel=0.01), "and bases"


@pytest.mark.parametrize("num_peers", [2, 64, 1000])
def test_limits_hold_everything_of_a_model_of_any_size(num_peers: int) -> None:
    limits = phantom_limits(DILOCO, 100_000_000_000, None, num_peers)
    elements = sent_elements(DILOCO, 100_000_000_000)
    chunks = -(-elements // limits.chunk_elements)
    assert chunks <= limits.chunks_per_owner * num_peers
    assert 4 * limits.chunk_elements <= limits.payload_bytes <= limits.window_bytes <= limits.buffer_bytes
    assert state_bytes(DILOCO, 100_000_000_000) / limits.payload_bytes <= 64
    assert limits.members >= num_peers
    small = phantom_limits(DILOCO, 1000, None, num_peers)
    assert small.chunk_elements == LIMITS.chunk_bytes // 4
