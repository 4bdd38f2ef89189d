"""OuterState: the outer step's identities, its bits, the live model, and state for joiners."""

from __future__ import annotations

import hashlib
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diloco.errors import LayoutError, StateError
from diloco.layout import Layout
from diloco.methods import Method, method
from diloco.outer import OuterState, outer_step
from diloco.vectors import SLICE
from transport.payloads import tree_digest

DILOCO = method("diloco", codec="fp32")
AVERAGE = method("local_sgd")
HEAVY_BALL = method("diloco", nesterov=False)


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


def stepped(theta: Tensor, buffer: Tensor, delta: Tensor, chosen: Method) -> tuple[Tensor, Tensor]:
    new_theta, new_buffer = torch.empty_like(theta), torch.empty_like(buffer)
    outer_step(
        theta,
        buffer,
        delta,
        lr=chosen.outer_lr,
        mu=chosen.outer_momentum,
        nesterov=chosen.nesterov,
        out_theta=new_theta,
        out_momentum=new_buffer,
        scratch=torch.empty_like(theta),
    )
    return new_theta, new_buffer


def naive_step(
    theta: np.ndarray, buffer: np.ndarray, delta: np.ndarray, lr: float, mu: float
) -> tuple[np.ndarray, np.ndarray]:
    """Element by element, as the formula is written."""
    f, out, new = np.float32, theta.copy(), buffer.copy()
    for i in range(len(theta)):
        new[i] = f(f(mu) * buffer[i]) + delta[i]
        out[i] = theta[i] - f(f(lr) * f(delta[i] + f(f(mu) * new[i])))
    return out, new


def test_the_outer_step_gives_the_bits_of_its_naive_twin() -> None:
    theta, buffer = normal(500, 1), normal(500, 2)
    expected = theta.numpy(), buffer.numpy()
    for round_index in range(4):
        delta = normal(500, 10 + round_index)
        expected = naive_step(*expected, delta.numpy(), lr=0.7, mu=0.9)
        theta, buffer = stepped(theta, buffer, delta, DILOCO)
    assert np.array_equal(theta.numpy(), expected[0])
    assert np.array_equal(buffer.numpy(), expected[1])


@pytest.mark.parametrize("chosen", [DILOCO, HEAVY_BALL, AVERAGE], ids=lambda m: f"{m.name}-{m.nesterov}")
def test_the_outer_step_equals_torch_sgd_up_to_rounding(chosen: Method) -> None:
    parameter = nn.Parameter(normal(300, 1))
    sgd = torch.optim.SGD(
        [parameter], lr=chosen.outer_lr, momentum=chosen.outer_momentum, nesterov=chosen.nesterov
    )
    theta, buffer = parameter.detach().clone(), torch.zeros(300 if chosen.outer_momentum else 0)
    for i in range(20):
        delta = normal(300, 10 + i) * 0.1
        parameter.grad = delta.clone()
        sgd.step()
        theta, buffer = stepped(theta, buffer, delta, chosen)
    assert torch.allclose(theta, parameter, rtol=1e-5, atol=1e-5)


def test_the_first_nesterov_step_is_one_plus_mu_times_lr_times_delta() -> None:
    model = make()
    outer = OuterState.from_model(model, DILOCO)
    before = flat(model)
    delta = normal(len(before), 7)
    outer.step(0, delta)
    assert torch.allclose(before - outer.outer_parameters(0), (1 + 0.9) * 0.7 * delta, atol=1e-6)


def test_lr_1_and_mu_0_give_the_average_of_the_workers() -> None:
    workers = [make() for _ in range(3)]
    outers = [OuterState.from_model(worker, AVERAGE) for worker in workers]
    for i, worker in enumerate(workers):
        train(worker, i + 1)
    average = torch.stack([flat(worker) for worker in workers]).mean(0)
    mean = torch.stack([outer.pseudo_gradient(0) for outer in outers]).mean(0)
    for outer, worker in zip(outers, workers, strict=True):
        outer.step(0, mean)
        outer.write(0)
        assert torch.allclose(flat(worker), average, atol=1e-6)
    assert torch.equal(flat(workers[0]), flat(workers[1]))


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
    assert outer.pseudo_gradient(0).dtype == torch.float32
    outer.step(0, torch.full((outer.num_elements(0),), 1e-5))
    outer.write(0)
    moved = outer.outer_parameters(0)
    assert not torch.equal(moved, flat(model))
    assert torch.equal(moved.bfloat16().float(), flat(model))
    assert model[0].weight.dtype == torch.bfloat16


def test_the_pseudo_gradient_is_outer_minus_local_and_is_not_changed_by_later_training() -> None:
    model = make()
    outer = OuterState.from_model(model, DILOCO)
    before = flat(model)
    train(model, 1)
    delta = outer.pseudo_gradient(0)
    assert torch.equal(delta, before - flat(model))
    kept = delta.clone()
    train(model, 2)
    outer.step(0, delta)
    assert torch.equal(delta, kept)


def test_tied_weights_move_once() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    outer = OuterState.from_model(model, AVERAGE)
    before = model[0].weight.detach().clone()
    outer.step(0, torch.ones(24))
    outer.write(0)
    assert torch.equal(model[1].weight.detach(), before - 1)


def test_transposed_parameters_are_read_and_written_in_their_logical_order() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(normal(6, 0).view(2, 3).t())
    expected = model.weight.detach().clone()
    outer = OuterState.from_model(model, AVERAGE)
    assert torch.equal(outer.outer_parameters(0), expected.flatten())
    outer.step(0, torch.ones(6))
    outer.write(0)
    assert torch.equal(model.weight.detach(), expected - 1)


def test_writing_one_fragment_leaves_the_others_as_they_train() -> None:
    model = make()
    outer = OuterState.from_model(model, method("local_sgd", num_fragments=2))
    train(model, 1)
    local = flat(model)
    outer.write(1)
    first = outer.num_elements(0)
    assert torch.equal(flat(model)[:first], local[:first])
    assert torch.equal(flat(model)[first:], outer.outer_parameters(1))


def test_progress_since_the_contribution_is_kept_on_top_of_the_new_outer_parameters() -> None:
    model = make()
    outer = OuterState.from_model(model, DILOCO)
    train(model, 1)
    contribution, snapshot = outer.pseudo_gradient(0), flat(model)
    train(model, 2)
    later = flat(model)
    outer.write_keeping_progress(0, normal(len(later), 3), contribution)
    assert torch.allclose(flat(model), outer.outer_parameters(0) + (later - snapshot), atol=1e-6)


def test_without_steps_since_the_contribution_keeping_progress_is_plain_writing() -> None:
    models = [make(), make()]
    outers = [OuterState.from_model(model, DILOCO) for model in models]
    for model in models:
        train(model, 1)
    contributions = [outer.pseudo_gradient(0) for outer in outers]
    outers[0].write_keeping_progress(0, contributions[0], contributions[0])
    outers[1].step(0, contributions[1])
    outers[1].write(0)
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_one_who_contributed_nothing_keeps_all_its_progress() -> None:
    model = make()
    outer = OuterState.from_model(model, AVERAGE)
    before = flat(model)
    train(model, 1)
    later = flat(model)
    outer.write_keeping_progress(0, torch.ones(len(before)), None)
    assert torch.allclose(flat(model), before - 1 + (later - before), atol=1e-6)


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


def test_the_state_is_outer_parameters_then_momentum_then_frozen_parameters_of_the_last_fragment() -> None:
    model = make()
    model[1].bias.requires_grad_(False)
    outer = OuterState.from_model(model, method("diloco", num_fragments=2))
    outer.step(1, normal(outer.num_elements(1), 1))
    parts = [outer.outer_parameters(1), outer.momentum(1), model[1].bias.detach()]
    expected = b"".join(part.numpy().tobytes() for part in parts)
    view = outer.pin(1)
    assert bytes(view.read(0, view.size_bytes)) == expected
    assert outer.state_size(1) == view.size_bytes == len(expected)
    assert outer.state_size(0) == 8 * outer.num_elements(0)


def test_without_momentum_the_state_holds_none() -> None:
    outer = OuterState.from_model(make(), AVERAGE)
    assert outer.state_size(0) == 4 * outer.num_elements(0)


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
        donor.write(i)
        view = donor.pin(i)
        joiner.load_state(i, bytes(view.read(0, view.size_bytes)), view.version)
        joiner.write(i)
        assert (joiner.digest(i), joiner.version(i)) == (donor.digest(i), 1)
    assert torch.equal(flat(joiner_model), flat(donor_model))


def test_state_that_does_not_fit_or_is_not_finite_is_refused_and_changes_nothing() -> None:
    outer = OuterState.from_model(make(), DILOCO)
    digest, size = outer.digest(0), outer.state_size(0)
    with pytest.raises(StateError, match=f"{size - 1} bytes instead of {size}"):
        outer.load_state(0, bytes(size - 1), 1)
    with pytest.raises(StateError, match="not finite"):
        outer.load_state(0, b"\xff" * size, 1)
    assert (outer.digest(0), outer.version(0)) == (digest, 0)


def test_a_layout_of_another_model_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"0\.weight"):
        OuterState(Layout.of(make(12)), make(11), DILOCO)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_a_model_on_an_accelerator_gives_the_bits_of_one_on_the_cpu() -> None:
    digests = []
    for device in ("cpu", "cuda"):
        model = make().bfloat16()
        train(model, 1)
        model.to(device)
        outer = OuterState.from_model(model, DILOCO)
        outer.step(0, outer.pseudo_gradient(0).add_(0.01))
        outer.write(0)
        assert torch.equal(outer.outer_parameters(0).bfloat16().float(), flat(model).cpu())
        digests.append(outer.digest(0))
    assert digests[0] == digests[1]
