"""A run that is started again, as a person does it: nothing is lost, and changes reach everybody."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import diloco
from diloco.settings import parse_settings
from peers.coordinator.journal import CommitWritten
from peers.coordinator.journal_scan import scan
from peers.protocol.events import SettingsChanged
from peers.protocol.record import Record

RUN = parse_settings(
    {
        "run": {"name": "second", "rounds": 3, "min_peers": 1, "failure_timeout_s": 1.0},
        "method": {"sync_every": 2},
    },
    "",
)
ROOT = Path(__file__).parent.parent.parent
LOCAL = "tcp://127.0.0.1:0"


def test_a_worker_that_trains_on_learns_what_its_host_changed_while_it_was_away(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[object] = []
    host = diloco.host(RUN, listen=LOCAL, state=tmp_path)
    with diloco.join(host.ticket, listen=None, state=tmp_path / "guest", name="guest") as swarm:
        outer = diloco.attach(model, optimizer, swarm, timeout_s=30.0, on_event=seen.append)
        host.close()
        changes = {"run.rounds": 5, "train.inner_lr": 0.5, "checkpoint.keep": 1}
        with diloco.host(RUN, listen=LOCAL, state=tmp_path, changes=changes) as again:
            for _ in outer.until_finished(range(100_000)):
                for parameter in model.parameters():
                    parameter.grad = torch.ones_like(parameter)
                optimizer.step()
            assert again.status()["rounds"] == 5
    assert outer.round == 5
    assert (swarm.settings.run.rounds, swarm.settings.train.inner_lr) == (5, 0.5)
    assert len(list((tmp_path / "guest").glob("checkpoints/*/0*"))) == 1
    assert sum(isinstance(each, SettingsChanged) for each in seen) == 1


RECIPE = """
import itertools, time
import torch
from diloco.recipe import Job

def recipe(settings, data, device, salt):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(number):
        time.sleep(0.02)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
        return torch.tensor(0.5)

    return Job(model, optimizer, step, itertools.count(1), 10, lambda: 0.5, lambda: "")
"""
TOML = (
    "[run]\nname = 'story'\nrounds = 9000\nmin_peers = 1\nfailure_timeout_s = 3.0\n[method]\nsync_every = 2\n"
)


class Commands:
    """The commands of a person with a home folder, each with what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "RUN.toml").write_text(TOML)
        (folder / "mine.py").write_text(RECIPE)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._log = {}

    def start(self, name: str, *words: str, home: str = "home") -> None:
        environment = {**os.environ, "HOME": str(self.folder / home), "PYTHONPATH": str(ROOT)}
        self._log[name] = log = self.folder / f"{name}-{len(self._log)}.log"
        command = [sys.executable, "-m", "diloco.cli", *words, "--listen", LOCAL]
        with log.open("wb") as file:
            self.running[name] = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
            )

    def host(self, *words: str) -> None:
        self.start("host", "host", "RUN.toml", "--ticket-file", "ticket", *words)

    def join(self, name: str, home: str = "home") -> None:
        self.start(name, "join", "@ticket", "--name", name, "--recipe", "mine.py:recipe", home=home)

    def said(self, name: str) -> str:
        return self._log[name].read_text()

    def until(self, name: str, text: str, seconds: float = 60.0) -> None:
        self.until_in(self._log[name], name, text, seconds)

    def until_in(self, told: Path, name: str, text: str, seconds: float = 60.0) -> None:
        give_up = time.monotonic() + seconds
        while not told.exists() or text not in told.read_text():
            assert time.monotonic() < give_up, f"{name} never said {text!r}: {self.said(name)[-2000:]}"
            assert self.running[name].poll() is None, self.said(name)[-2000:]
            time.sleep(0.1)

    def interrupt(self, *names: str) -> None:
        """Ctrl-C at each, one after the other."""
        for name in names:
            self.running[name].send_signal(signal.SIGINT)
            assert self.running.pop(name).wait(60.0) == 130, self.said(name)[-2000:]

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.mark.timeout(240)
def test_the_same_commands_go_on_in_another_order_with_one_missing_and_from_a_copied_folder(
    tmp_path: Path,
) -> None:
    with Commands(tmp_path) as person:
        person.host()
        person.until("host", "ticket in")
        for name in ("ann", "bob"):
            person.join(name)
        person.until("host", "2 workers")
        person.interrupt("host", "bob", "ann")
        shutil.copytree(tmp_path / "home", tmp_path / "laptop")
        shutil.rmtree(tmp_path / "home" / ".local" / "state" / "diloco" / "story", ignore_errors=True)
        (tmp_path / "laptop" / ".local" / "state" / "diloco" / "story").rename(tmp_path / "story")
        person.join("ann", home="laptop")
        person.until("ann", "goes on looking for its host")
        person.host("--state", "story", "--set", "run.grace_s=7")
        person.until("host", "the run goes on after round ")
        person.until("ann", "this worker begins with its checkpoint of commit ")
        person.until("host", "1 worker, ")
        assert "run.grace_s 30.0 -> 7.0" in person.said("host")
        done = int(re.findall(r"goes on after round (\d+) of", person.said("host"))[0])
        person.until("ann", f"it trains from commit {done} on")
        rounds = [int(each) for each in re.findall(r"round (\d+): 1 worker", person.said("host"))]
        assert rounds[0] == done + 1, "no round was lost"
        person.interrupt("ann", "host")


def records_in(home: Path) -> list[Record]:
    """Those of the only journal in a host's folder."""
    (journal,) = home.glob("journal-*")
    return [each.commit() for each in scan(journal.read_bytes()).entries if isinstance(each, CommitWritten)]


@pytest.mark.timeout(120)
def test_a_host_goes_back_to_an_earlier_commit_where_its_owner_says_so(tmp_path: Path) -> None:
    """Its worker takes the checkpoint before that commit, and follows to it by the results on its disk."""
    train = ("--train", "--state", "story", "--recipe", "mine.py:recipe")
    with Commands(tmp_path) as person:
        person.host(*train, "--events", "events.jsonl")
        person.until_in(tmp_path / "events.jsonl", "host", "round 4: 1 worker")  # few rounds have a line
        person.interrupt("host")
        before = records_in(tmp_path / "story")
        person.host(*train, "--resume", "2")
        person.until("host", "this worker begins with its checkpoint of commit 0")
        person.until("host", f"round {len(before) + 1} (commit {len(before) + 2}): 1 worker")
        person.interrupt("host")
    after = records_in(tmp_path / "story")
    assert after[: len(before)] == before
    restoring, following = after[len(before) : len(before) + 2]
    assert (restoring.restores, restoring.result) == (True, before[1].hash())
    assert (following.parent, following.restores) == (restoring.hash(), False)
