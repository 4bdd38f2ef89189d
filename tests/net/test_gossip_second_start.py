"""A run that gossips, as real processes: when all were killed, each goes on from its own replica."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import diloco
from diloco.cli.app import app
from diloco.settings import parse_settings
from tests.net.test_second_start import LOCAL, ROOT, Commands

TOML = """
[run]
name = "pairs"
rounds = 9000
min_peers = 2
failure_timeout_s = 3.0
[method]
preset = "noloco"
sync_every = 5
"""


def saved_steps(folder: Path) -> dict[str, int]:
    """By worker, the outer step of its newest checkpoint."""
    found: dict[str, int] = {}
    for path in folder.glob("home/.local/state/diloco/**/checkpoints/*/0*"):
        name = "host" if "bob" not in path.parts else "bob"
        found[name] = max(found.get(name, 0), int(path.name[:12]))
    return found


def until_step(person: Commands, least: int) -> None:
    """Until both workers have taken so many outer steps; some are told together."""
    give_up = time.monotonic() + 60.0
    while True:
        told = re.findall(r"outer step (\d+): taken by 2 workers", person.said("host"))
        if told and int(told[-1]) >= least:
            return
        assert time.monotonic() < give_up, person.said("host")[-2000:]
        time.sleep(0.1)


def command(folder: Path, *words: str) -> str:
    environment = {**os.environ, "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "diloco.cli", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(180)
def test_when_all_who_gossip_were_killed_each_goes_on_from_its_own_replica(tmp_path: Path) -> None:
    with Commands(tmp_path) as person:
        (tmp_path / "RUN.toml").write_text(TOML)
        train = ("--train", "--recipe", "mine.py:recipe")
        person.host(*train)
        person.until("host", "ticket in")
        person.join("bob")
        until_step(person, 4)
        assert "asked to save the replica of each: " in command(tmp_path, "checkpoint", "now", "@ticket")
        give_up = time.monotonic() + 60.0
        while len(saved := saved_steps(tmp_path)) < 2 or min(saved.values()) < 4:
            assert time.monotonic() < give_up, saved
            time.sleep(0.1)
        for process in person.running.values():
            process.kill()
        for process in person.running.values():
            process.wait()
        saved = saved_steps(tmp_path)
        person.join("bob")
        person.host(*train)
        person.until("host", "the run goes on after round ")
        done = int(re.findall(r"goes on after round (\d+) of", person.said("host"))[0])
        assert done >= 4
        for name in ("host", "bob"):
            person.until(
                name, f"this worker begins with its checkpoint of outer step {saved[name]}, inner step "
            )
        until_step(person, done + 3)
        assert "far behind" not in person.said("host")
        person.interrupt("bob", "host")
        home = tmp_path / "home/.local/state/diloco/pairs"
        assert "as they were written" in CliRunner().invoke(app, ["checkpoint", "verify", str(home)]).output


def life(folder: Path) -> tuple[int, int]:
    """Train alone until the host says that the run is over; inner steps that this took, and rounds."""
    run = {"rounds": 2, "min_peers": 1, "failure_timeout_s": 1.0}
    settings = parse_settings({"run": run, "method": {"preset": "noloco", "sync_every": 3}}, "")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    give_up = time.monotonic() + 30.0
    with diloco.host(settings, listen=LOCAL, state=folder) as swarm:
        outer = diloco.attach(model, optimizer, swarm, timeout_s=30.0)
        before = outer.step
        for _ in outer.until_finished(range(1000)):
            model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
            optimizer.step()
        while not swarm.status()["over"]:
            assert time.monotonic() < give_up, swarm.status()
            time.sleep(0.05)
        return outer.step - before, swarm.status()["rounds"]


def test_a_replica_that_has_all_outer_steps_is_not_trained_on_and_ends_the_run_without_a_journal_too(
    tmp_path: Path,
) -> None:
    assert life(tmp_path) == (6, 2)
    (journal,) = tmp_path.glob("journal-*")
    journal.unlink()
    assert life(tmp_path) == (0, 2)
