"""A compiled, a replicated and a plain model are one model: names in layouts, files and checkpoints agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

import diloco
from diloco.checkpoints.sources import LiveModel
from diloco.outer.layout import Layout
from diloco.outer.plain_names import PlainNames, named_buffers, named_state, unwrapped


class Net(nn.Module):
    """One of its own modules is called as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = nn.Linear(3, 3)
        self.layers = nn.ModuleList([nn.BatchNorm1d(3), nn.Linear(3, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](self.layers[0](self.module(x)))


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    yield
    dist.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_inside(model: Net) -> nn.Module:
    model.layers[1] = compiled(model.layers[1])
    return model


WRAPS: dict[str, Callable[[Net], nn.Module]] = {
    "compiled": compiled,
    "replicated": DistributedDataParallel,
    "compiled and replicated": lambda model: compiled(DistributedDataParallel(model)),
    "a compiled part": compiled_inside,
    "data parallel": nn.DataParallel,
}


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_wrapped_model_meets_a_plain_one(wrap: Callable[[Net], nn.Module], tmp_path: Path) -> None:
    plain, wrapped = Net(), wrap(Net())
    assert Layout.of(wrapped).manifest() == Layout.of(plain).manifest()
    assert dict(named_buffers(wrapped)).keys() == dict(plain.named_buffers()).keys()
    assert named_state(wrapped).keys() == plain.state_dict().keys()
    names = [name for name, _ in plain.named_parameters()]
    kept = LiveModel(wrapped, names).state_dict()
    LiveModel(plain, names).load_state_dict(kept)
    assert kept["persistent"] == [name for name, _ in plain.named_buffers()]
    with diloco.solo() as swarm:
        outer = diloco.attach(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.1), swarm)
        outer.save(tmp_path / "model.safetensors")
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))


def test_what_is_inside_of_all_wrappers_is_found() -> None:
    model = Net()
    assert unwrapped(compiled(nn.DataParallel(model))) is model
    assert unwrapped(model) is model
    assert PlainNames(model)("module.weight") == "module.weight"


def test_a_refusal_names_the_first_tensor_that_differs(tmp_path: Path) -> None:
    local = "tcp://127.0.0.1:0"
    run = diloco.RunSettings.model_validate({"run": {"min_peers": 1}})
    with diloco.host(run, listen=local, state=tmp_path) as host:
        model = Net()
        diloco.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), host, timeout_s=30.0)
        for change, says in (
            (
                lambda model: setattr(model, "layers", nn.ModuleList([nn.BatchNorm1d(3), nn.Linear(3, 4)])),
                r"shapes: .* the first tensor that differs is this member's layers\.1\.weight 4x3 float32",
            ),
            (lambda model: model.layers.bfloat16(), r"member's layers\.0\.weight 3 bfloat16 \(fragment 0\)"),
            (
                lambda model: model.layers.append(nn.Linear(2, 2)),
                r"tensors: .* member's layers\.2\.weight 2x2",
            ),
        ):
            other = Net()
            change(other)
            with (
                diloco.join(host.ticket, name="other", listen=local) as joined,
                pytest.raises(diloco.EntryError, match=says),
            ):
                diloco.attach(other, torch.optim.SGD(other.parameters(), lr=0.1), joined, timeout_s=30.0)
