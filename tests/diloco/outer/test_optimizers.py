"""Outer optimizers: torch's results, the papers' identities, and the same bits however the work is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diloco.compression.vectors import SLICE
from diloco.outer.optimizers import DelayedNesterov, OuterOptimizer, outer_optimizer

pytestmark = pytest.mark.usefixtures("both_ways")
ALL: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"lr": 1.0}),
    ("sign", {"lr": 0.01}),
    ("nesterov", {"lr": 0.7, "momentum": 0.9}),
    ("heavy_ball", {"lr": 0.7, "momentum": 0.5, "clip": 0.3, "penalty": 2.0}),
    ("adam", {"lr": 0.3, "momentum": 0.9, "beta2": 0.95, "eps": 0.1}),
    ("delayed_nesterov", {"lr": 0.7, "momentum": 0.9, "every": 3}),
]
IDS = [name for name, _ in ALL]


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def run(optimizer: OuterOptimizer, n: int, steps: int, *, in_place: bool = True) -> list[Tensor]:
    theta, buffers = normal(n, 0), [torch.zeros(n) for _ in range(optimizer.num_buffers)]
    for count in range(steps):
        out = (
            [theta, *buffers] if in_place else [torch.full((n,), torch.nan) for _ in range(1 + len(buffers))]
        )
        optimizer.step(theta, buffers, normal(n, 1 + count), count, out[0], out[1:])
        theta, *buffers = out
    return [theta, *buffers]


@pytest.mark.parametrize(("name", "parts"), ALL, ids=IDS)
def test_in_place_and_into_other_memory_give_the_same_bits(name: str, parts: dict[str, Any]) -> None:
    n = SLICE + 77
    there, here = (run(outer_optimizer(name, **parts), n, 4, in_place=flag) for flag in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(there, here, strict=True))


@pytest.mark.parametrize(("name", "parts"), ALL, ids=IDS)
def test_slices_and_threads_do_not_matter(name: str, parts: dict[str, Any], monkeypatch: Any) -> None:
    n, threads = SLICE + 77, torch.get_num_threads()
    whole = run(outer_optimizer(name, **parts), n, 3)
    try:
        torch.set_num_threads(threads + 1)
        threaded = run(outer_optimizer(name, **parts), n, 3)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr("diloco.outer.optimizers.SLICE", 10_007)
    sliced = run(outer_optimizer(name, **parts), n, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, threaded, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole, sliced, strict=True))


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_equals_torch_sgd_up_to_rounding(nesterov: bool) -> None:
    parameter = nn.Parameter(normal(300, 0))
    theirs = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=nesterov)
    for count in range(8):
        parameter.grad = normal(300, 1 + count)
        theirs.step()
    ours = run(outer_optimizer("nesterov" if nesterov else "heavy_ball", lr=0.7, momentum=0.9), 300, 8)
    torch.testing.assert_close(ours[0], parameter.detach(), rtol=1e-5, atol=1e-5)


def test_adam_equals_torch_adam_up_to_rounding() -> None:
    parameter = nn.Parameter(normal(300, 0))
    theirs = torch.optim.Adam([parameter], lr=0.3, betas=(0.9, 0.95), eps=0.1)
    for count in range(8):
        parameter.grad = normal(300, 1 + count)
        theirs.step()
    ours = run(outer_optimizer("adam", lr=0.3, momentum=0.9, beta2=0.95, eps=0.1), 300, 8)
    torch.testing.assert_close(ours[0], parameter.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_late_adam_steps_equal_torch_adam_at_that_step(count: int) -> None:
    parameter, delta = nn.Parameter(torch.zeros(3)), torch.tensor([0.5, -0.2, 0.1])
    theirs = torch.optim.Adam([parameter], lr=0.3, betas=(0.9, 0.99), eps=0.1)
    parameter.grad = delta.clone()
    theirs.state[parameter] = {
        "step": torch.tensor(float(count)),
        "exp_avg": torch.full((3,), 0.1),
        "exp_avg_sq": torch.full((3,), 0.04),
    }
    theirs.step()
    theta, buffers = torch.zeros(3), [torch.full((3,), 0.1), torch.full((3,), 0.04)]
    ours = outer_optimizer("adam", lr=0.3, momentum=0.9, beta2=0.99, eps=0.1)
    ours.step(theta, buffers, delta, count, theta, buffers)
    torch.testing.assert_close(theta, parameter.detach(), rtol=1e-5, atol=1e-7)


def naive_nesterov(theta: np.ndarray, buffer: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Element by element, as the formula is written, each operation rounded to fp32."""
    f, out, new = np.float32, theta.copy(), buffer.copy()
    for i in range(len(theta)):
        new[i] = f(f(0.9) * buffer[i]) + delta[i]
        out[i] = theta[i] - f(f(0.7) * f(delta[i] + f(f(0.9) * new[i])))
    return out, new


def test_nesterov_gives_the_bits_of_its_naive_twin() -> None:
    theta, buffer = normal(500, 0).numpy(), np.zeros(500, dtype=np.float32)
    for count in range(4):
        theta, buffer = naive_nesterov(theta, buffer, normal(500, 1 + count).numpy())
    ours = run(outer_optimizer("nesterov", lr=0.7, momentum=0.9), 500, 4)
    assert np.array_equal(ours[0].numpy(), theta)
    assert np.array_equal(ours[1].numpy(), buffer)


def test_the_first_nesterov_step_is_one_plus_mu_times_lr_times_delta() -> None:
    moved = normal(50, 0) - run(outer_optimizer("nesterov", lr=0.7, momentum=0.9), 50, 1)[0]
    torch.testing.assert_close(moved, 1.9 * 0.7 * normal(50, 1))


def test_k_delayed_steps_are_one_nesterov_step_on_the_mean_of_their_pseudo_gradients() -> None:
    delayed = outer_optimizer("delayed_nesterov", lr=0.7, momentum=0.9, every=4)
    plain = outer_optimizer("nesterov", lr=0.7, momentum=0.9)
    ours, theirs = [normal(20, 0), torch.zeros(20), torch.zeros(20)], [normal(20, 0), torch.zeros(20)]
    for milestone in range(3):
        deltas = [normal(20, 10 * milestone + k) for k in range(4)]
        for k, delta in enumerate(deltas):
            delayed.step(ours[0], ours[1:], delta, 4 * milestone + k, ours[0], ours[1:])
        mean = torch.stack(deltas).mean(0)
        plain.step(theirs[0], theirs[1:], mean, milestone, theirs[0], theirs[1:])
        torch.testing.assert_close(ours[0], theirs[0])
        assert not ours[2].any(), "the accumulator begins anew"


def test_momentum_spread_over_delayed_steps_has_the_same_weight_as_at_the_milestone() -> None:
    """With K = 4, c = 0.1 and no new pseudo-gradients, m = 1 moves by 3 * 0.1 mu m and then by
    (1 - 0.4 + 0.1) mu (mu m)."""
    optimizer = DelayedNesterov(1.0, 0.5, 4, c=0.1)
    theta, buffers = torch.zeros(1), [torch.ones(1), torch.zeros(1)]
    for count in range(4):
        optimizer.step(theta, buffers, torch.zeros(1), count, theta, buffers)
    assert float(theta) == pytest.approx(-(3 * 0.1 * 0.5 + 0.7 * 0.5 * 0.5))
    assert float(buffers[0]) == 0.5


def test_slowmo_by_hand_with_two_parameters() -> None:
    """alpha 1, beta 0.5, inner lr 0.1: u = 0.5 u + (x0 - mean) / 0.1; x = x0 - 0.1 u."""
    optimizer = outer_optimizer("heavy_ball", lr=1.0, momentum=0.5)
    x, u, state = np.array([1.0, -1.0]), np.zeros(2), [torch.tensor([1.0, -1.0]), torch.zeros(2)]
    for count, mean in enumerate(([0.8, -0.6], [0.5, 0.1], [0.4, 0.0])):
        delta = x - np.array(mean)
        u = 0.5 * u + delta / 0.1
        x = x - 0.1 * u
        optimizer.step(
            state[0], state[1:], torch.tensor(delta, dtype=torch.float32), count, state[0], state[1:]
        )
        np.testing.assert_allclose(state[0].numpy(), x, rtol=1e-5)


def test_the_clip_clips_and_the_penalty_divides() -> None:
    optimizer = outer_optimizer("heavy_ball", lr=1.0, momentum=0.5, clip=0.25, penalty=2.0)
    theta, buffer = torch.zeros(3), torch.zeros(3)
    optimizer.step(theta, [buffer], torch.tensor([0.2, 4.0, -4.0]), 0, theta, [buffer])
    assert buffer.tolist() == pytest.approx([0.1, 0.25, -0.25])
    assert theta.tolist() == pytest.approx([-0.1, -0.25, 0.25])


def test_sign_moves_every_element_by_lr() -> None:
    theta = torch.zeros(3)
    outer_optimizer("sign", lr=0.5).step(theta, [], torch.tensor([7.0, -0.001, 0.0]), 0, theta, [])
    assert theta.tolist() == [-0.5, 0.5, 0.0]


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        outer_optimizer("adamax", lr=1.0)
