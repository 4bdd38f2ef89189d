"""OuterState: the outer step's identities, its bits, and state for joiners."""

from __future__ import annotations

from threading import Event, Thread

import pytest
import torch
from torch import nn

from diloco.compression.vectors import SLICE
from diloco.errors import StateError
from diloco.methods.presets import method
from diloco.methods.spec import Method
from diloco.outer.layout import Layout
from diloco.outer.state import OuterState
from tests.diloco.outer.kit import flat, make, normal

DILOCO = method("diloco", codec="fp32")
AVERAGE = method("local_sgd")


def outer_of(model: nn.Module, chosen: Method) -> OuterState:
    """The outer state that begins with a model's values; the model is not seen again."""
    outer, values = OuterState(Layout.of(model, chosen.num_fragments), chosen), flat(model)
    for fragment in range(outer.num_fragments):
        size = outer.num_elements(fragment)
        outer.start_from(fragment, lambda out, part=values[:size]: out.copy_(part))
        values = values[size:]
    return outer


def test_the_first_nesterov_step_is_one_plus_mu_times_lr_times_delta() -> None:
    model = make()
    outer = outer_of(model, DILOCO)
    before = flat(model)
    delta = normal(len(before), 7)
    outer.step(0, delta)
    assert torch.allclose(before - outer.outer_parameters(0), (1 + 0.9) * 0.7 * delta, atol=1e-6)


def test_h_1_with_inner_sgd_and_plain_averaging_is_synchronous_data_parallel_sgd() -> None:
    lr, gradients = 0.1, [normal(83, 50), normal(83, 51)]
    together = make()
    before = flat(together)
    outer = outer_of(together, AVERAGE)
    outer.step(0, sum(lr * g for g in gradients) / 2)
    assert torch.allclose(
        outer.outer_parameters(0), before - lr * (gradients[0] + gradients[1]) / 2, atol=1e-6
    )


def test_in_place_and_copied_steps_over_many_slices_give_the_same_bits() -> None:
    def run(pin: bool) -> OuterState:
        outer = outer_of(make(SLICE // 4), DILOCO)
        for i in range(3):
            if pin:
                outer.pin(0)
            outer.step(0, normal(outer.num_elements(0), i))
        return outer

    assert run(pin=False).num_elements(0) > SLICE
    assert run(pin=True).digest(0) == run(pin=False).digest(0)


def test_a_mean_of_another_shape_changes_nothing() -> None:
    outer = outer_of(make(), DILOCO)
    digest = outer.digest(0)
    with pytest.raises(ValueError, match="not fp32"):
        outer.step(0, torch.zeros(3))
    assert (outer.digest(0), outer.pin(0).version) == (digest, 0)


def test_a_pinned_view_never_changes_and_an_unpinned_step_is_in_place() -> None:
    outer = outer_of(make(), DILOCO)
    n = outer.num_elements(0)
    address = outer.outer_parameters(0).data_ptr()
    outer.step(0, normal(n, 1))
    assert outer.outer_parameters(0).data_ptr() == address
    view, digest = outer.pin(0), outer.digest(0)
    for i in range(3):
        outer.step(0, normal(n, 2 + i))
    assert (view.version, view.digest()) == (1, digest)
    assert outer.pin(0).version == 4
    assert outer.digest(0) != digest


def test_a_sketch_moves_the_shared_basis_alone_and_no_pinned_view() -> None:
    chosen = method("dilocox", rank=1)
    outer = outer_of(make(), chosen)
    view, digest = outer.pin(0), outer.digest(0)
    theta = outer.outer_parameters(0).clone()
    length = outer.components(0).projection.length(outer.projection_state(0))
    assert outer.sketches(0)
    with pytest.raises(ValueError, match="not fp32"):
        outer.take_sketch(0, torch.zeros(length + 1))
    outer.take_sketch(0, normal(length, 1))
    assert view.digest() == digest != outer.digest(0)
    assert (outer.sketches(0), outer.count(0), outer.pin(0).version) == (False, 0, 1)
    assert torch.equal(outer.outer_parameters(0), theta)
    outer.step(0, normal(outer.components(0).projection.length(outer.projection_state(0)), 2))
    assert (outer.sketches(0), outer.count(0)) == (True, 1)


def test_a_donor_thread_only_ever_sees_whole_versions_while_the_trainer_steps() -> None:
    steps, donor, twin = 30, *(outer_of(make(SLICE // 4), DILOCO) for _ in range(2))
    deltas = [normal(twin.num_elements(0), i) for i in range(steps)]
    expected = [twin.digest(0)]
    for delta in deltas:
        twin.step(0, delta)
        expected.append(twin.digest(0))
    seen: list[tuple[int, bytes]] = []
    done = Event()

    def serve() -> None:
        while not done.is_set():
            view = donor.pin(0)
            seen.append((view.version, view.digest()))

    reader = Thread(target=serve)
    reader.start()
    for delta in deltas:
        donor.step(0, delta)
    done.set()
    reader.join()
    assert donor.digest(0) == expected[-1]
    assert all(digest == expected[version] for version, digest in seen)


def test_a_digest_does_not_make_the_next_step_copy() -> None:
    outer = outer_of(make(), DILOCO)
    address = outer.outer_parameters(0).data_ptr()
    outer.digest(0)
    outer.step(0, torch.zeros(outer.num_elements(0)))
    assert outer.outer_parameters(0).data_ptr() == address


def test_without_momentum_the_state_holds_none() -> None:
    outer = outer_of(make(), AVERAGE)
    assert outer.state_size(0) == 8 + 4 * outer.num_elements(0)


def test_state_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    outer = outer_of(make(), DILOCO)
    digest, other = outer.digest(0), outer.room(0)
    other.write(0, b"\xff" * len(other))
    with pytest.raises(StateError, match="not finite"):
        outer.take_over(0, other)
    assert (outer.digest(0), outer.pin(0).version) == (digest, 0)


def test_the_state_is_the_count_then_outer_parameters_then_momentum() -> None:
    outer = outer_of(make(), method("diloco", num_fragments=2))
    outer.step(1, normal(outer.num_elements(1), 1))
    parts = [torch.tensor([1]), outer.outer_parameters(1), *outer.buffers(1)]
    expected = b"".join(part.numpy().tobytes() for part in parts)
    view = outer.pin(1)
    assert bytes(view.read(0, view.size_bytes)) == expected
    assert outer.state_size(1) == view.size_bytes == len(expected)


def test_an_outer_state_that_loads_another_ones_bytes_goes_on_as_that() -> None:
    donor, joiner = outer_of(make(seed=0), DILOCO), outer_of(make(seed=50), DILOCO)
    donor.step(0, normal(donor.num_elements(0), 1))
    view = donor.pin(0)
    incoming = joiner.room(0)
    incoming.write(0, view.read(0, view.size_bytes))
    assert joiner.take_over(0, incoming) == joiner.pin(0).version
    for outer in (donor, joiner):
        outer.step(0, normal(outer.num_elements(0), 2))
    assert (joiner.digest(0), joiner.count(0)) == (donor.digest(0), 2)


def test_a_run_that_has_begun_takes_no_other_first_parameters() -> None:
    outer = outer_of(make(), DILOCO)
    outer.step(0, normal(outer.num_elements(0), 1))
    with pytest.raises(AssertionError, match="a run has begun"):
        outer.start_from(0, torch.Tensor.zero_)


def test_a_step_while_the_state_is_read_copies_and_one_after_does_not() -> None:
    outer = outer_of(make(), DILOCO)
    n, address, digest = outer.num_elements(0), outer.outer_parameters(0).data_ptr(), outer.digest(0)
    with outer.reading(0) as view:
        outer.step(0, normal(n, 1))
        assert view.digest() == digest
    moved = outer.outer_parameters(0).data_ptr()
    assert moved != address
    outer.step(0, normal(n, 2))
    assert outer.outer_parameters(0).data_ptr() == moved


def step_of(outer: OuterState, kind: str) -> None:
    """One change of the first fragment's state."""
    n = outer.num_elements(0)
    if kind == "sketch":
        outer.take_sketch(0, normal(outer.components(0).projection.length(outer.projection_state(0)), 1))
    elif kind == "gossip":
        outer.gossip_step(0, normal(n, 1), normal(n, 2))
    else:
        outer.step(0, normal(n, 1))


@pytest.mark.parametrize("pins", [True, False])
@pytest.mark.parametrize(("kind", "name"), [("step", "diloco"), ("gossip", "noloco"), ("sketch", "dilocox")])
def test_no_kind_of_step_writes_under_a_reader(kind: str, name: str, pins: bool) -> None:
    outer = outer_of(make(), method(name, rank=1) if kind == "sketch" else method(name))
    digest = outer.digest(0)
    if pins:
        view = outer.pin(0)
        step_of(outer, kind)
        assert view.digest() == digest
    else:
        with outer.reading(0) as view:
            step_of(outer, kind)
            assert view.digest() == digest
    assert outer.digest(0) != digest
