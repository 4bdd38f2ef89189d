"""A run that is started again: what its owner changed reaches workers that train meanwhile."""

from __future__ import annotations

from pathlib import Path

import torch

import diloco
from diloco.settings import parse_settings
from peers.protocol.events import SettingsChanged

RUN = parse_settings(
    {
        "run": {"name": "second", "rounds": 3, "min_peers": 1, "failure_timeout_s": 1.0},
        "method": {"sync_every": 2},
    },
    "",
)
LOCAL = "tcp://127.0.0.1:0"


def test_a_worker_that_trains_on_learns_what_its_host_changed_while_it_was_away(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[object] = []
    host = diloco.host(RUN, listen=LOCAL, state=tmp_path)
    with diloco.join(host.ticket, listen=None, name="guest") as swarm:
        outer = diloco.attach(model, optimizer, swarm, timeout_s=30.0, on_event=seen.append)
        host.close()
        changes = {"run.rounds": 5, "train.inner_lr": 0.5}
        with diloco.host(RUN, listen=LOCAL, state=tmp_path, changes=changes) as again:
            for _ in outer.until_finished(range(100_000)):
                for parameter in model.parameters():
                    parameter.grad = torch.ones_like(parameter)
                optimizer.step()
            assert again.status()["rounds"] == 5
    assert outer.round == 5
    assert (swarm.settings.run.rounds, swarm.settings.train.inner_lr) == (5, 0.5)
    assert sum(isinstance(each, SettingsChanged) for each in seen) == 1
