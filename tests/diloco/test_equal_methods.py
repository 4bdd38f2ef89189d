"""Identities of the method, over the whole stack of a swarm of one, and by hand for more workers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import diloco
from diloco.methods.presets import method
from diloco.outer.replica import TensorReplica


def model_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def batches(seed: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 6, generator=generator) for _ in range(count)]


def inner_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def settings(rounds: int, sync_every: int, **parts: object) -> diloco.RunSettings:
    return diloco.RunSettings.model_validate(
        {"run": {"rounds": rounds}, "method": {"sync_every": sync_every, "codec": "fp32", **parts}}
    )


def test_h_1_with_outer_lr_1_and_no_momentum_is_data_parallel_sgd() -> None:
    shared = model_of(0)
    workers = [copy.deepcopy(shared) for _ in range(3)]
    states = [TensorReplica.of(w, method("local_sgd", sync_every=1)).local for w in workers]
    optimizers = [torch.optim.SGD(w.parameters(), lr=0.1) for w in workers]
    parallel = torch.optim.SGD(shared.parameters(), lr=0.1)
    data = [batches(10 + i, 20) for i in range(3)]
    for x_of_workers in zip(*data, strict=True):
        for worker, optimizer, x in zip(workers, optimizers, x_of_workers, strict=True):
            inner_step(worker, optimizer, x)
        mean = torch.stack([state.pseudo_gradient(0) for state in states]).mean(0)
        for state in states:
            state.outer.step(0, mean)
            state.discard(0)
        parallel.zero_grad()
        (sum(shared(x).square().mean() for x in x_of_workers) / 3).backward()
        parallel.step()
    for worker in workers:
        torch.testing.assert_close(vector(worker), vector(shared), rtol=1e-5, atol=1e-6)


def test_a_swarm_of_one_that_averages_is_its_inner_optimizer() -> None:
    model, plain = model_of(1), model_of(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.01)
    run = settings(5, 3, preset="local_sgd")
    data = iter(batches(3, 100))
    with diloco.solo(run) as swarm:
        outer = diloco.attach(model, optimizer, swarm)
        while not outer.finished:
            x = next(data)
            inner_step(model, optimizer, x)
            inner_step(plain, reference, x)
        assert outer.round == 5
    torch.testing.assert_close(vector(model), vector(plain), rtol=1e-5, atol=1e-6)


def test_the_first_nesterov_step_moves_by_one_plus_mu_times_lr_times_delta() -> None:
    model = model_of(2)
    start = vector(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    local = copy.deepcopy(model)
    local_optimizer = torch.optim.SGD(local.parameters(), lr=0.5)
    data = batches(4, 100)
    for x in data[:4]:
        inner_step(local, local_optimizer, x)
    delta = start - vector(local)
    feed = iter(data)
    with diloco.solo(settings(1, 4, outer_lr=0.7, outer_momentum=0.9)) as swarm:
        outer = diloco.attach(model, optimizer, swarm)
        while outer.round < 1:
            inner_step(model, optimizer, next(feed))
    with outer.outer_parameters():
        moved = start - vector(model)
    torch.testing.assert_close(moved, 1.9 * 0.7 * delta, rtol=1e-5, atol=1e-6)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))  # type: ignore[no-any-return]


def test_tied_weights_are_exchanged_and_saved_once_and_frozen_and_buffers_stay(tmp_path: Path) -> None:
    model = Tied()
    optimizer = torch.optim.SGD([model.embed.weight], lr=0.1)
    with diloco.solo(settings(2, 2)) as swarm:
        outer = diloco.attach(model, optimizer, swarm)
        assert outer.num_parameters == 28
        while not outer.finished:
            optimizer.zero_grad()
            model(torch.arange(7)).square().mean().backward()
            optimizer.step()
            model.seen += 1
        outer.save(tmp_path / "model.safetensors")
    assert model.head.weight is model.embed.weight
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == {"embed.weight", "seen"}, "the base model has what is frozen"
    outer.save(tmp_path / "full.safetensors", full=True)
    full = load_file(tmp_path / "full.safetensors")
    assert set(full) == {"embed.weight", "frozen", "seen"}
    assert torch.equal(full["frozen"], torch.ones(3))
    with outer.outer_parameters():
        assert torch.equal(saved["embed.weight"], model.embed.weight.detach())
    assert torch.equal(model.frozen, torch.ones(3))


def test_a_model_that_is_saved_without_others_frozen_parameters_is_said_to_lack_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Tied()
    with diloco.solo(settings(2, 2)) as swarm:
        outer = diloco.attach(model, torch.optim.SGD([model.embed.weight], lr=0.1), swarm)
        outer.save(tmp_path / "m.safetensors")
        assert not caplog.text
        mine = outer.replica.model  # the last fragment has them, which is that of the buffers
        mine.load_frozen(len(mine.layout.fragments) - 1, memoryview(bytearray(12)))
        outer.save(tmp_path / "m.safetensors")
        assert caplog.text.count("lacks the frozen parameters, and the run's are other ones") == 1
        outer.save(tmp_path / "m.safetensors", full=True)
        assert caplog.text.count("lacks the frozen parameters") == 1
    assert torch.equal(load_file(tmp_path / "m.safetensors")["frozen"], torch.zeros(3))


def test_evaluating_the_outer_parameters_leaves_the_local_ones_as_they_were() -> None:
    model = model_of(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with diloco.solo(settings(3, 4)) as swarm:
        outer = diloco.attach(model, optimizer, swarm)
        begin = vector(model)
        for x in batches(6, 2):
            inner_step(model, optimizer, x)
        local = vector(model)
        with outer.outer_parameters():
            assert torch.equal(vector(model), begin)
        assert torch.equal(vector(model), local)


def test_a_detached_model_is_left_alone() -> None:
    model = model_of(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with diloco.solo(settings(50, 1)) as swarm:
        outer = diloco.attach(model, optimizer, swarm)
        inner_step(model, optimizer, torch.ones(4, 6))
        outer.detach()
        inner_step(model, optimizer, torch.ones(4, 6))
        assert outer.step == 1


def test_a_closed_swarm_says_so() -> None:
    model = model_of(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with diloco.solo(settings(50, 1)) as swarm:
        diloco.attach(model, optimizer, swarm)
    with pytest.raises(diloco.SwarmClosed):
        inner_step(model, optimizer, torch.ones(4, 6))
