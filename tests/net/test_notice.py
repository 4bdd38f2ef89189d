"""A script that gets SIGTERM keeps what is its own, and the next one trains on from there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.net.swarm_processes import ROOT

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch, diloco

settings = diloco.RunSettings.model_validate(
    {"run": {"rounds": 1000, "min_peers": 1}, "method": {"preset": "local_sgd", "sync_every": 4}}
)
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
state, listen, until = Path(sys.argv[1]), "tcp://127.0.0.1:0", int(sys.argv[2])
with (
    diloco.host(settings, listen=listen, state=state) as swarm,
    diloco.attach(model, optimizer, swarm, keep={"schedule": schedule}) as outer,
    outer.notice(),
):
    print("begins at", outer.step, schedule.last_epoch, flush=True)
    for _ in outer.until_finished(iter(int, 1)):
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        if outer.step == until:
            os.kill(os.getpid(), signal.SIGTERM)
        optimizer.step()
        schedule.step()
"""


@pytest.mark.timeout(150)
def test_sigterm_ends_a_script_behind_the_whole_step_and_the_next_one_goes_on_there(tmp_path: Path) -> None:
    said = []
    for until in (6, 9):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "state"), str(until)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=70)
        assert done.returncode == 128 + signal.SIGTERM, done.stderr
        said.append(done.stdout.splitlines()[-1])
    assert said == ["begins at 0 0", "begins at 7 7"]
