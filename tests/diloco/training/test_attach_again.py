"""Cells of a notebook that are run again, and models that several processes hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import diloco
from diloco.training.attach import earlier_of

EVERY = 2


@pytest.fixture
def swarm() -> Iterator[diloco.Swarm]:
    with diloco.solo(run()) as made:
        yield made


def run() -> diloco.RunSettings:
    return diloco.RunSettings.model_validate(
        {"run": {"rounds": 4, "name": "notebook"}, "method": {"preset": "diloco", "sync_every": EVERY}}
    )


def cell(model: nn.Module, swarm: diloco.Swarm) -> tuple[torch.optim.Optimizer, diloco.Outer]:
    """What stands in one cell: the optimizer is made anew each time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return optimizer, diloco.attach(model, optimizer, swarm, tokens_per_step=10, timeout_s=30.0)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_cell_that_is_run_again_replaces_the_earlier_attach(swarm: diloco.Swarm) -> None:
    model = nn.Linear(3, 2)
    first, before = cell(model, swarm)
    for _ in range(3):
        step(model, first)
    second, after = cell(model, swarm)
    for _ in range(3):
        step(model, second)
    assert (after.step, after.round, after.tokens) == (6, 3, 60)
    step(model, first)
    assert after.step == 6, "the earlier optimizer is hooked no more"
    assert earlier_of(swarm, model) is after
    while not after.finished:
        step(model, second)
    assert after.tokens_by_fate["applied"] == 10 * 4 * EVERY
    assert before.step == after.step


def test_a_cell_that_is_run_again_after_the_swarm_was_closed_says_so(swarm: diloco.Swarm) -> None:
    model = nn.Linear(3, 2)
    cell(model, swarm)
    swarm.close()
    with pytest.raises(diloco.SwarmClosed):
        cell(model, swarm)


def test_another_model_for_the_same_swarm_is_refused_with_the_remedy(swarm: diloco.Swarm) -> None:
    cell(nn.Linear(3, 2), swarm)
    with pytest.raises(
        diloco.UserError, match=r"already, <diloco\.Outer of Linear.*close the swarm and join anew"
    ):
        cell(nn.Linear(3, 2), swarm)


def test_what_a_restarted_cell_keeps_is_that_of_its_own_optimizer(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    how = {"listen": "tcp://127.0.0.1:0", "state": tmp_path}
    settings = run().model_copy(update={"run": run().run.model_copy(update={"min_peers": 1})})
    with diloco.host(settings, **how) as host:  # type: ignore[arg-type]
        first, _ = cell(model, host)
        step(model, first)
        second, outer = cell(model, host)
        for _ in outer.until_finished(range(3)):
            step(model, second)
        moments = second.state[model.weight]["exp_avg"].clone()
    with diloco.host(settings, **how) as host:  # type: ignore[arg-type]
        third, _ = cell(nn.Linear(3, 2), host)
        (kept,) = [state["exp_avg"] for p, state in third.state.items() if p.dim() == 2]
    assert torch.equal(kept, moments)


def test_a_host_cell_that_is_run_again_says_what_runs(tmp_path: Path) -> None:
    how = {"listen": "tcp://127.0.0.1:0", "state": tmp_path}
    with diloco.host(run(), **how) as host:  # type: ignore[arg-type]
        with pytest.raises(
            diloco.UserError, match=r"that is this process.*go on with that swarm, call its close"
        ):
            diloco.host(run(), **how)  # type: ignore[arg-type]
        assert repr(host) == f"<diloco.Swarm: {host.peer_name} hosts run notebook, 0 other members, round 0>"
        assert host.ticket not in repr(host)
    assert repr(host).endswith("closed>")
    with diloco.host(run(), **how):  # type: ignore[arg-type]
        pass


def test_outer_says_how_it_stands(swarm: diloco.Swarm) -> None:
    model = nn.Linear(3, 2)
    optimizer, outer = cell(model, swarm)
    step(model, optimizer)
    assert repr(outer) == "<diloco.Outer of Linear, 8 parameters: trains, step 1, round 0, 10 tokens>"
    assert repr(swarm) == f"<diloco.Swarm: {swarm.peer_name} alone in run notebook, 0 other members, round 0>"


@pytest.fixture
def two_ranks() -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("two_ranks")
def test_ranks_that_train_one_model_together_are_refused_with_the_remedy(swarm: diloco.Swarm) -> None:
    with pytest.raises(
        diloco.UserError,
        match=r"^2 ranks of torch\.distributed .*give attach group=torch\.distributed\.group\.WORLD",
    ):
        cell(nn.Linear(3, 2), swarm)
    assert swarm.status()["members"] == []


def test_a_sharded_parameter_is_refused_by_name(swarm: diloco.Swarm) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    try:
        model = nn.Linear(3, 2)
        mesh = init_device_mesh("cpu", (1,))
        model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(diloco.LayoutError, match="parameter weight is a DTensor"):
            cell(model, swarm)
    finally:
        dist.destroy_process_group()
