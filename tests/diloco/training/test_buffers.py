"""Workers with BatchNorm by real `attach`: one file at the end, and another layout of buffers is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import diloco
from diloco.errors import EntryError

STEPS = 6
"""Of a loop that ends with the run's last round: the mean of buffers comes behind it."""


class Average(nn.Module):
    """A running mean of its own, which it replaces instead of writing into it."""

    mean: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x


def make(size: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, size), Average(size))


def train(swarm: diloco.Swarm, path: Path, together: threading.Barrier) -> None:
    model, draws = make(), torch.Generator().manual_seed(swarm.data_seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with diloco.attach(model, optimizer, swarm, tokens_per_step=8, timeout_s=30.0) as outer:
        together.wait(30.0)
        together.wait(30.0)
        for x in outer.until_finished(torch.randn(8, 3, generator=draws) for _ in range(STEPS)):
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()
        outer.save(path)


def test_all_save_one_file_and_another_layout_of_buffers_is_refused_by_name(tmp_path: Path) -> None:
    run = diloco.RunSettings.model_validate(
        {"run": {"rounds": 2, "min_peers": 2}, "method": {"preset": "diloco", "sync_every": 3}}
    )
    local, together = "tcp://127.0.0.1:0", threading.Barrier(3)
    paths = [tmp_path / "one", tmp_path / "two"]
    with (
        diloco.host(run, listen=local, state=tmp_path) as host,
        diloco.join(host.ticket, name="one", listen=local) as one,
        diloco.join(host.ticket, name="two", listen=local) as two,
        diloco.join(host.ticket, name="other", listen=local) as other,
    ):
        threads = [
            threading.Thread(target=train, args=(swarm, path, together))
            for swarm, path in zip((one, two), paths, strict=True)
        ]
        for each in threads:
            each.start()
        together.wait(30.0)
        wrong = make()
        wrong[3].register_buffer("more", torch.zeros(2))
        wrong[3].register_buffer("least", torch.full((2,), torch.inf))
        with pytest.raises(EntryError, match=r"^tensors: [^:].*3\.more.*counts as a constant, here 3\.least"):
            diloco.attach(wrong, torch.optim.AdamW(wrong.parameters()), other, timeout_s=30.0)
        together.wait(30.0)
        for each in threads:
            each.join(30.0)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert bool(load_file(paths[0])["3.mean"].any())


class Grows(nn.Module):
    """It keeps what came last, and its buffer is as large as that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().clone()
        out: Tensor = self.norm(self.layer(x))
        return out


def test_a_buffer_that_changes_its_shape_is_told_at_the_first_step_and_stays_the_workers_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = diloco.RunSettings.model_validate(
        {"run": {"rounds": 2}, "method": {"preset": "diloco", "sync_every": 3}}
    )
    model = Grows()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with diloco.solo(run) as swarm, diloco.attach(model, optimizer, swarm, timeout_s=30.0) as outer:
        for x in outer.until_finished(iter(lambda: torch.randn(8, 3), None)):
            model(x).square().mean().backward()
            optimizer.step()
            told = [each for each in caplog.messages if "buffer seen was 4 float32" in each]
            assert len(told) == 1
        outer.save(tmp_path / "model")
        assert (outer.replica.has_mean_buffers, outer.round) == (True, 2)
    saved = load_file(tmp_path / "model")
    assert torch.equal(saved["seen"], model.seen)
    assert torch.equal(saved["norm.running_var"], model.norm.running_var)
