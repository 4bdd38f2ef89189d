"""A run that gossips, as real processes: when all were killed, each goes on from its own replica."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diloco.cli.app import app
from tests.net.test_second_start import ROOT, Commands

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
