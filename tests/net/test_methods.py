"""The method family over real sockets: two workers, encrypted loopback links, every row to its end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import diloco
from diloco.methods.presets import PRESETS

ROUNDS = 4
CHANGES: dict[str, dict[str, Any]] = {
    "streaming": {"num_fragments": 2, "fragment_pattern": "balanced"},
    "decoupled": {"num_fragments": 2},
    "sparta": {"mask_one_in": 4},
    "dilocox": {"rank": 2},
    "async_diloco": {"outer_every": 2},
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def settings(name: str) -> diloco.RunSettings:
    every = 1 if PRESETS[name].sync_every == 1 else 4
    method = {"preset": name, "sync_every": every, **CHANGES.get(name, {})}
    if PRESETS[name].delay == PRESETS[name].sync_every:
        method["delay"] = every
    run = {"rounds": ROUNDS, "failure_timeout_s": 2.0, "grace_s": 10.0, "min_peers": 2}
    return diloco.RunSettings.model_validate({"run": run, "method": method})


def train(
    swarm: diloco.Swarm, index: int, found: dict[int, list[torch.Tensor]], errors: list[BaseException]
) -> None:
    try:
        with swarm:
            model = Small()
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            data = torch.Generator().manual_seed(index)
            with diloco.attach(model, optimizer, swarm, tokens_per_step=8, timeout_s=30.0) as outer:
                for x in outer.until_finished(iter(lambda: torch.randn(8, 24, generator=data), None)):
                    optimizer.zero_grad()
                    (model(x) - x).square().mean().backward()
                    optimizer.step()
                with outer.outer_parameters():
                    found[index] = [p.detach().clone() for p in model.parameters()]
                assert outer.round >= ROUNDS
    except BaseException as error:
        errors.append(error)


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_runs_to_its_end_between_real_workers(name: str, tmp_path: Path) -> None:
    found: dict[int, list[torch.Tensor]] = {}
    errors: list[BaseException] = []
    with diloco.host(settings(name), listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host:
        ticket = host.ticket
        workers = []
        for index in range(2):
            swarm = diloco.join(ticket, name=f"w{index}", listen="tcp://127.0.0.1:0")
            workers.append(threading.Thread(target=train, args=(swarm, index, found, errors)))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60.0)
            assert not worker.is_alive(), "it did not come to its end"
    assert not errors, errors
    assert all(p.isfinite().all() for parameters in found.values() for p in parameters)
    if not PRESETS[name].gossips:
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True)), (
            "outer parameters are equal"
        )
