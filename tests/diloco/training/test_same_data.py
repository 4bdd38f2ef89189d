"""Workers that train on the same data, as a seed that everybody leaves at 42 makes them, hear of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import diloco
from diloco.cli.app import app

ROUNDS = 6


def train(swarm: diloco.Swarm, seed: int, together: threading.Barrier, alike: list[bool]) -> None:
    """A loop with a seed for its data."""
    draws = torch.Generator().manual_seed(seed)
    model = nn.Linear(64, 8)
    with torch.no_grad():
        model.weight.fill_(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with diloco.attach(model, optimizer, swarm, timeout_s=30.0) as outer:
        together.wait(30.0)
        while not outer.finished:
            x = torch.randn(4, 64, generator=draws)
            optimizer.zero_grad()
            (model(x) - x[:, :8]).square().mean().backward()
            optimizer.step()
        alike.append(outer.replica.learns_what_others_do)
        together.wait(30.0)


@pytest.mark.parametrize("same", [True, False], ids=["one seed", "data_seed"])
def test_one_seed_for_all_is_said_in_log_and_status_and_data_seed_is_not(
    same: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = diloco.RunSettings.model_validate(
        {"run": {"rounds": ROUNDS, "min_peers": 2}, "method": {"preset": "diloco", "sync_every": 3}}
    )
    alike: list[bool] = []
    local = "tcp://127.0.0.1:0"
    with (
        diloco.host(run, listen=local, state=tmp_path) as host,
        diloco.join(host.ticket, name="one", listen=local) as one,
        diloco.join(host.ticket, name="two", listen=local) as two,
    ):
        assert len({host.data_seed, one.data_seed, two.data_seed}) == 3
        together = threading.Barrier(3)
        threads = [
            threading.Thread(target=train, args=(each, 42 if same else each.data_seed, together, alike))
            for each in (one, two)
        ]
        for each in threads:
            each.start()
        together.wait(30.0)
        together.wait(30.0)
        shown = CliRunner().invoke(app, ["status", host.ticket]).output
        for each in threads:
            each.join(30.0)
    assert alike == [same, same]
    said = "send what others send: they seem to train on the same data"
    assert (said in " ".join(shown.split())) == same
    assert caplog.text.count("seem to train on the same data") == (2 if same else 0)


def test_a_worker_that_comes_back_draws_its_data_in_the_same_order(tmp_path: Path) -> None:
    seeds = []
    for _ in range(2):
        with diloco.host(diloco.RunSettings(), listen="tcp://127.0.0.1:0", state=tmp_path) as host:
            seeds.append(host.data_seed)
    assert seeds[0] == seeds[1]
    assert 0 <= seeds[0] < 1 << 32
