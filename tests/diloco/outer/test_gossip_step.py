"""The outer step of gossip: NoLoCo's identities (arXiv 2506.10911), worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diloco.methods.presets import method
from diloco.outer.replica import TensorReplica
from diloco.outer.state import OuterState
from diloco.outer.tensor_reducer import TensorReducer


class Line(nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values))


def replica(values: list[float], **parts: Any) -> OuterState:
    return TensorReplica.of(Line(values), method("noloco", **parts)).outer


def test_identical_replicas_take_a_heavy_ball_step_whatever_gamma_is() -> None:
    theta, momentum = torch.tensor([1.0, -2.0]), torch.zeros(2)
    outers = [replica([1.0, -2.0], gamma=gamma) for gamma in (0.6, 1.4)]
    for delta in (torch.tensor([0.5, 1.0]), torch.tensor([-1.0, 0.25])):
        momentum = 0.5 * momentum + 0.7 * delta
        theta = theta - momentum
        for outer in outers:
            outer.gossip_step(0, delta, outer.outer_parameters(0).clone())
            torch.testing.assert_close(outer.outer_parameters(0), theta)


def test_a_pair_without_progress_leaves_with_its_mean() -> None:
    pair = [
        replica(v, outer="sgd", outer_momentum=0.0, outer_lr=1.0, gamma=1.0) for v in ([0.0, 4.0], [2.0, 0.0])
    ]
    mean = torch.stack([outer.outer_parameters(0).clone() for outer in pair]).mean(0)
    for outer in pair:
        outer.gossip_step(0, torch.zeros(2), mean)
        assert outer.outer_parameters(0).tolist() == [1.0, 2.0]


def test_by_hand_with_two_parameters() -> None:
    """m = 0.5 * 0 + 0.7 * (1, 0) + 0.7 * ((2, 2) - (1, 4)) = (1.4, -1.4)."""
    outer = replica([2.0, 2.0])
    outer.gossip_step(0, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(outer.buffers(0)[0], torch.tensor([1.4, -1.4]))
    torch.testing.assert_close(outer.outer_parameters(0), torch.tensor([0.6, 3.4]))
    assert outer.count(0) == 1


def variance_after(gamma: float, steps: int = 120) -> float:
    """Random pairs of eight replicas, which drift by noise; the outer momentum is 0.5."""
    generator = torch.Generator().manual_seed(0)
    theta, momentum = torch.randn(8, 50, generator=generator), torch.zeros(8, 50)
    for _ in range(steps):
        noise = torch.randn(8, 50, generator=generator) * 0.01
        for pair in torch.randperm(8, generator=generator).view(4, 2):
            delta, mean = noise[pair].mean(0), theta[pair].mean(0)
            momentum[pair] = 0.5 * momentum[pair] + 0.7 * delta + gamma * (theta[pair] - mean)
            theta[pair] = theta[pair] - momentum[pair]
    return float((theta - theta.mean(0)).square().mean())


def test_replicas_stay_together_inside_the_window_of_gamma_and_not_above_it() -> None:
    assert variance_after(0.7) < 0.01
    assert variance_after(2.0) > 1.0


def test_a_pair_of_workers_swaps_pseudo_gradients_and_parameters_in_one_vector() -> None:
    models = [Line([0.0, 0.0]), Line([0.0, 0.0])]
    pair = [TensorReplica.of(each, method("noloco")) for each in models]
    offered: list[TensorReducer] = []
    for number, (replica, model) in enumerate(zip(pair, models, strict=True)):
        with torch.no_grad():
            model.weight.add_(torch.tensor([1.0, 2.0]) * (number + 1))
        made, _ = replica.contribution(0)
        assert isinstance(made, TensorReducer)
        assert made.num_elements == 4
        offered.append(made)
    parts = [made.contribution for made in offered if made.contribution is not None]
    for replica, made in zip(pair, offered, strict=True):
        made.output.copy_(torch.stack(parts).mean(0))  # a swap hands back what was offered
        replica.apply(0, made, made, 0.5, keep_old=False)
        # theta - 0.7 * mean(delta), with mean(delta) = (-1.5, -3)
        torch.testing.assert_close(replica.outer.outer_parameters(0), torch.tensor([1.05, 2.1]))


@pytest.mark.parametrize("step", [0, 5])
def test_alone_a_replica_takes_its_own_step(step: int) -> None:
    model = Line([float(step), 0.0])
    replica = TensorReplica.of(model, method("noloco"))
    with torch.no_grad():
        model.weight.add_(1.0)
    made, _ = replica.contribution(0)
    replica.apply(0, None, made, 1.0, keep_old=False)
    replica.land(0, made, on_time=True)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([step + 0.7, 0.7]))
