"""Clocks of the wall that jump by a year, forward and back: the run goes on as if they did not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import diloco
from diloco.swarm.handshake import status
from tests.net.swarm_kit import eventually

RUN = diloco.RunSettings.model_validate(
    {
        "run": {"rounds": 1000, "failure_timeout_s": 2.0, "min_peers": 1},
        "method": {"sync_every": 2, "codec": "fp32"},
    }
)
LOCAL = "tcp://127.0.0.1:0"
YEAR_S = 365 * 24 * 3600.0
REAL, REAL_NS = time.time, time.time_ns


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock of the wall so many years forward."""

    def by(years: float) -> None:
        monkeypatch.setattr("time.time", lambda: REAL() + years * YEAR_S)
        monkeypatch.setattr("time.time_ns", lambda: REAL_NS() + round(years * YEAR_S * 1e9))

    return by


@pytest.mark.parametrize("years", [1.0, -1.0])
def test_a_clock_that_jumps_puts_nobody_out_and_keeps_nobody_out(
    tmp_path: Path, jump: Callable[[float], None], years: float
) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.step()

    with (
        diloco.host(RUN, listen=LOCAL, state=tmp_path / "host", ticket_hours=1.0) as host,
        diloco.join(host.ticket, listen=LOCAL, state=tmp_path / "worker", name="worker") as swarm,
        diloco.attach(model, optimizer, swarm, timeout_s=20.0) as outer,
    ):
        for moment in (years, 0.0, -years):
            jump(moment)
            before = outer.round
            train(4)
            assert outer.round >= before + 2
            assert status(host.ticket)["rounds"] >= before + 2, "the ticket is good still"
            with diloco.join(host.ticket, listen=LOCAL, name="late", timeout_s=20.0):
                pass
            eventually(lambda: [each["name"] for each in host.status()["members"]] == ["worker"])
