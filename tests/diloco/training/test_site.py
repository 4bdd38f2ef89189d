"""A site of one rank in this process: what `attach` refuses with a group, and that the rest is as without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_module

import diloco
from diloco.outer.layout import Layout
from diloco.training.attach import attach
from diloco.training.site import SiteOuter
from diloco.training.site_drivers import FollowedReplica
from diloco.training.site_link import carries, require_group
from diloco.training.site_saving import write_site
from diloco.training.site_tensors import SiteTensors

METHOD = {"preset": "diloco", "sync_every": 2, "codec": "fp32"}


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def swarm() -> Iterator[diloco.Swarm]:
    with diloco.solo(diloco.RunSettings.model_validate({"run": {"rounds": 2}, "method": METHOD})) as made:
        yield made


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.again = nn.Linear(3, 2)
        self.again.weight = self.head.weight
        self.base = nn.Linear(2, 2).requires_grad_(False)


def worker(
    swarm: diloco.Swarm | None, group: Any = None, **how: Any
) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return model, optimizer, attach(model, optimizer, swarm, group=group, timeout_s=20.0, **how)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1) if parameter.requires_grad else None
    optimizer.step()


def test_a_site_of_one_rank_trains_and_saves_as_a_process_without_a_group_does(
    swarm: diloco.Swarm, tmp_path: Path
) -> None:
    files: dict[str, Any] = {}
    with diloco.solo(swarm.settings) as other:
        for name, where, group in (("site", swarm, dist.group.WORLD), ("plain", other, None)):
            model, optimizer, outer = worker(where, group)
            for _ in range(4):
                step(model, optimizer)
            assert (outer.step, outer.finished, outer.tokens) == (4, True, 4)
            names = ("head.weight", "base.bias")
            files[f"bytes of {name}"] = {each: outer.replica.model.digest_of(each) for each in names}
            with outer.outer_parameters() as shown:
                files[f"shown by {name}"] = {n: p.detach().clone() for n, p in shown.named_parameters()}
                nn.init.constant_(model.base.weight, 5.0)
            assert model.base.weight[0, 0] == 5.0, "of what nobody exchanges no copy was held"
            for full in (False, True):
                outer.save(tmp_path / "file", full=full)
                files[f"{name} {full}"] = load_file(tmp_path / "file")
            if group is not None:
                write_site(model, outer.replica, tmp_path / "again", round_=2, full=True)
                assert load_file(tmp_path / "again").keys() == files["site True"].keys()
    assert files["bytes of site"] == files["bytes of plain"]
    for one, two in (
        ("site False", "plain False"),
        ("site True", "plain True"),
        ("shown by site", "shown by plain"),
    ):
        assert files[one].keys() == files[two].keys()
        assert all(torch.equal(files[one][name], files[two][name]) for name in files[two])


class Masters(torch.optim.Optimizer):
    """fp32 masters under bf16 weights, in the optimizer's state."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state["master"] = p.float()
            state["master"].sub_(p.grad.float(), alpha=1e-4)
            p.copy_(state["master"])


@pytest.mark.parametrize("cut", [False, True])
def test_a_site_offers_what_its_optimizers_fp32_masters_learned(swarm: diloco.Swarm, cut: bool) -> None:
    """Steps that bf16 does not show; ``cut``: of DTensors, which have masters that are such."""
    group = dist.group.WORLD
    model = nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    if cut:
        model = distribute_module(model, init_device_mesh("cpu", (1,)))
    nn.init.ones_(model.weight)
    optimizer = Masters(model.parameters(), {})
    outer = attach(model, optimizer, swarm, group=group, timeout_s=20.0)
    while not outer.finished:
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    (learned,) = set(outer.replica.outer.outer_parameters(0).tolist())
    assert learned < 1 - 3e-4


def test_a_loop_of_a_site_stops_and_keeps_its_schedule(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm, dist.group.WORLD, tokens_per_step=None)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    outer.schedule(schedule)
    landed: list[int] = []
    outer.on_landing(lambda _: landed.append(outer.step))
    for _ in outer.until_finished(range(100)):
        step(model, optimizer)
        outer.log(loss=0.5)
        outer.step_done(7)
        if outer.step == 3:
            outer.stop()
    assert (outer.step, outer.tokens, outer.loss, landed) == (3, 21, 0.5, [0, 2])
    assert isinstance(outer, SiteOuter)
    assert outer.data_seed == swarm.data_seed
    assert repr(outer).endswith("rank 0 of a site>")


def test_a_second_attach_is_refused(swarm: diloco.Swarm) -> None:
    worker(swarm, dist.group.WORLD)
    with pytest.raises(diloco.UserError, match="this swarm trains already"):
        worker(swarm, dist.group.WORLD)


def test_rank_0_without_a_swarm_is_refused_and_so_is_anybody_without_a_group() -> None:
    with pytest.raises(diloco.UserError, match="rank 0 speaks for a site: give attach the swarm there"):
        worker(None, dist.group.WORLD)
    with pytest.raises(diloco.UserError, match="attach was given no swarm"):
        worker(None)


def test_what_is_no_group_of_this_rank_is_refused(swarm: diloco.Swarm) -> None:
    with pytest.raises(diloco.UserError, match="is no process group that this rank is in"):
        worker(swarm, dist.GroupMember.NON_GROUP_MEMBER)
    require_group(dist.group.WORLD)


def test_values_go_by_the_loops_group_where_that_sends_from_their_device() -> None:
    assert carries("cuda:nccl", "cuda")
    assert carries("cpu:gloo,cuda:nccl", "cuda")
    assert not carries("cpu:gloo,cuda:nccl", "cpu")
    assert not carries("cpu:gloo,cuda:gloo", "cuda")
    assert not carries(dist.get_backend_config(dist.group.WORLD), "cpu")


def test_objects_to_keep_are_refused_by_name(swarm: diloco.Swarm) -> None:
    with pytest.raises(diloco.UserError, match=r"keep=\['data'\]: a site keeps the shared state alone"):
        worker(swarm, dist.group.WORLD, keep={"data": torch.optim.SGD([nn.Parameter(torch.ones(1))])})


def test_a_parameter_on_the_meta_device_is_refused_by_name(swarm: diloco.Swarm) -> None:
    model = nn.Linear(2, 2, device="meta")
    with pytest.raises(diloco.UserError, match="parameter weight is on the meta device"):
        attach(model, torch.optim.SGD(model.parameters()), swarm, group=dist.group.WORLD)


def test_who_follows_has_no_outer_state_and_says_who_has() -> None:
    model = nn.Linear(2, 2)
    replica = FollowedReplica(SiteTensors.of(Layout.of(model), model), rank=3)
    assert replica.layout.num_elements(0) == 6
    with pytest.raises(
        AttributeError, match="outer: rank 0 of a site has its outer state, and this is rank 3"
    ):
        _ = replica.outer
