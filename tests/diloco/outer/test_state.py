"""OuterState: the outer step's identities, its bits, the live model, and state for joiners."""

from __future__ import annotations

import hashlib
from threading import Event, Thread

import pytest
import torch
from torch import Tensor, nn

from diloco.compression.vectors import SLICE
from diloco.errors import LayoutError, StateError
from diloco.methods.presets import method
from diloco.outer.layout import Layout
from diloco.outer.local_state import LocalState
from diloco.outer.model_tensors import ModelTensors
from diloco.outer.state import OuterState
from transport.digests import tree_digest

DILOCO = method("diloco", codec="fp32")
AVERAGE = method("local_sgd")


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def make(n: int = 12, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(n, 5), nn.Linear(5, 3))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(parameter.numel(), seed + i).view_as(parameter))
    return model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])


def train(model: nn.Module, seed: int) -> None:
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            noise = normal(parameter.numel(), 100 * seed + i).view_as(parameter) * 0.01
            parameter.add_(noise.to(parameter.dtype))


def test_the_first_nesterov_step_is_one_plus_mu_times_lr_times_delta() -> None:
    model = make()
    outer = OuterState.from_model(model, DILOCO)
    before = flat(model)
    delta = normal(len(before), 7)
    outer.step(0, delta)
    assert torch.allclose(before - outer.outer_parameters(0), (1 + 0.9) * 0.7 * delta, atol=1e-6)


def test_h_1_with_inner_sgd_and_plain_averaging_is_synchronous_data_parallel_sgd() -> None:
    lr, gradients = 0.1, [normal(83, 50), normal(83, 51)]
    together = make()
    before = flat(together)
    outer = OuterState.from_model(together, AVERAGE)
    outer.step(0, sum(lr * g for g in gradients) / 2)
    assert torch.allclose(
        outer.outer_parameters(0), before - lr * (gradients[0] + gradients[1]) / 2, atol=1e-6
    )


def test_in_place_and_copied_steps_over_many_slices_give_the_same_bits() -> None:
    def run(pin: bool) -> OuterState:
        outer = OuterState.from_model(make(SLICE // 4), DILOCO)
        for i in range(3):
            if pin:
                outer.pin(0)
            outer.step(0, normal(outer.num_elements(0), i))
        return outer

    assert run(pin=False).num_elements(0) > SLICE
    assert run(pin=True).digest(0) == run(pin=False).digest(0)


def test_a_bf16_model_keeps_its_outer_parameters_in_fp32() -> None:
    model = make().bfloat16()
    outer = OuterState.from_model(model, AVERAGE)
    assert LocalState(outer).pseudo_gradient(0).dtype == torch.float32
    outer.step(0, torch.full((outer.num_elements(0),), 1e-5))
    LocalState(outer).discard(0)
    moved = outer.outer_parameters(0)
    assert not torch.equal(moved, flat(model))
    assert torch.equal(moved.bfloat16().float(), flat(model))
    assert model[0].weight.dtype == torch.bfloat16


def test_tied_weights_move_once() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    outer = OuterState.from_model(model, AVERAGE)
    before = model[0].weight.detach().clone()
    outer.step(0, torch.ones(24))
    LocalState(outer).discard(0)
    assert torch.equal(model[1].weight.detach(), before - 1)


def test_transposed_parameters_are_read_and_written_in_their_logical_order() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(normal(6, 0).view(2, 3).t())
    expected = model.weight.detach().clone()
    outer = OuterState.from_model(model, AVERAGE)
    assert torch.equal(outer.outer_parameters(0), expected.flatten())
    outer.step(0, torch.ones(6))
    LocalState(outer).discard(0)
    assert torch.equal(model.weight.detach(), expected - 1)


def test_writing_one_fragment_leaves_the_others_as_they_train() -> None:
    model = make()
    outer = OuterState.from_model(model, method("local_sgd", num_fragments=2))
    train(model, 1)
    local = flat(model)
    LocalState(outer).discard(1)
    first = outer.num_elements(0)
    assert torch.equal(flat(model)[:first], local[:first])
    assert torch.equal(flat(model)[first:], outer.outer_parameters(1))


def test_a_mean_of_another_shape_changes_nothing() -> None:
    outer = OuterState.from_model(make(), DILOCO)
    digest = outer.digest(0)
    with pytest.raises(ValueError, match="not fp32"):
        outer.step(0, torch.zeros(3))
    assert (outer.digest(0), outer.version(0)) == (digest, 0)


def test_a_pinned_view_never_changes_and_an_unpinned_step_is_in_place() -> None:
    outer = OuterState.from_model(make(), DILOCO)
    n = outer.num_elements(0)
    address = outer.outer_parameters(0).data_ptr()
    outer.step(0, normal(n, 1))
    assert outer.outer_parameters(0).data_ptr() == address
    view, digest = outer.pin(0), outer.digest(0)
    for i in range(3):
        outer.step(0, normal(n, 2 + i))
    assert (view.version, view.digest()) == (1, digest)
    assert outer.version(0) == 4
    assert outer.digest(0) != digest


def test_a_donor_thread_only_ever_sees_whole_versions_while_the_trainer_steps() -> None:
    steps, donor, twin = 30, *(OuterState.from_model(make(SLICE // 4), DILOCO) for _ in range(2))
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
    outer = OuterState.from_model(make(), DILOCO)
    address = outer.outer_parameters(0).data_ptr()
    outer.digest(0)
    outer.step(0, torch.zeros(outer.num_elements(0)))
    assert outer.outer_parameters(0).data_ptr() == address


def test_the_state_is_the_count_then_outer_parameters_then_momentum_then_frozen_parameters_of_the_last() -> (
    None
):
    model = make()
    model[1].bias.requires_grad_(False)
    outer = OuterState.from_model(model, method("diloco", num_fragments=2))
    outer.step(1, normal(outer.num_elements(1), 1))
    parts = [torch.tensor([1]), outer.outer_parameters(1), *outer.buffers(1), model[1].bias.detach()]
    expected = b"".join(part.numpy().tobytes() for part in parts)
    view = outer.pin(1)
    assert bytes(view.read(0, view.size_bytes)) == expected
    assert outer.state_size(1) == view.size_bytes == len(expected)
    assert outer.state_size(0) == 8 + 8 * outer.num_elements(0)


def test_without_momentum_the_state_holds_none() -> None:
    outer = OuterState.from_model(make(), AVERAGE)
    assert outer.state_size(0) == 8 + 4 * outer.num_elements(0)


def test_reads_at_any_offset_join_the_segments() -> None:
    model = make()
    model[0].weight.requires_grad_(False)
    outer = OuterState.from_model(model, AVERAGE)
    view = outer.pin(0)
    whole = bytes(view.read(0, view.size_bytes))
    for offset in range(0, len(whole) + 8, 7):
        assert bytes(view.read(offset, 50)) == whole[offset : offset + 50]
    pieces = [bytes(piece) for piece in view.pieces(64)]
    assert b"".join(pieces) == whole
    assert view.digest(64) == tree_digest([hashlib.sha256(piece).digest() for piece in pieces])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_joiner_that_loads_the_state_equals_the_donor(dtype: torch.dtype) -> None:
    def frozen(seed: int) -> nn.Sequential:
        model = make(seed=seed).to(dtype)
        model[1].weight.requires_grad_(False)
        return model

    chosen = method("diloco", num_fragments=2)
    donor_model, joiner_model = frozen(0), frozen(50)
    donor, joiner = OuterState.from_model(donor_model, chosen), OuterState.from_model(joiner_model, chosen)
    for i in range(2):
        donor.step(i, normal(donor.num_elements(i), i))
        LocalState(donor).discard(i)
        view = donor.pin(i)
        joiner.load_state(i, bytes(view.read(0, view.size_bytes)))
        LocalState(joiner).discard(i)
        assert (joiner.digest(i), joiner.count(i)) == (donor.digest(i), 1)
    assert torch.equal(flat(joiner_model), flat(donor_model))


def test_state_that_does_not_fit_or_is_not_finite_is_refused_and_changes_nothing() -> None:
    outer = OuterState.from_model(make(), DILOCO)
    digest, size = outer.digest(0), outer.state_size(0)
    with pytest.raises(StateError, match=f"{size - 1} bytes instead of {size}"):
        outer.load_state(0, bytes(size - 1))
    with pytest.raises(StateError, match="not finite"):
        outer.load_state(0, b"\xff" * size)
    assert (outer.digest(0), outer.version(0)) == (digest, 0)


def test_a_layout_of_another_model_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"0\.weight"):
        ModelTensors.of(Layout.of(make(12)), make(11))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_a_model_on_an_accelerator_gives_the_bits_of_one_on_the_cpu() -> None:
    digests = []
    for device in ("cpu", "cuda"):
        model = make().bfloat16()
        train(model, 1)
        model.to(device)
        outer = OuterState.from_model(model, DILOCO)
        outer.step(0, LocalState(outer).pseudo_gradient(0).add_(0.01))
        LocalState(outer).discard(0)
        assert torch.equal(outer.outer_parameters(0).bfloat16().float(), flat(model).cpu())
        digests.append(outer.digest(0))
    assert digests[0] == digests[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_outer_step_takes_no_more_extra_device_memory_than_one_fragment() -> None:
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8))).cuda()
    outer = OuterState.from_model(model, method("diloco", num_fragments=8))
    local = LocalState(outer)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for fragment in range(8):
        outer.step(fragment, local.pseudo_gradient(fragment))
        local.discard(fragment)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 4 * max(outer.num_elements(f) for f in range(8))
