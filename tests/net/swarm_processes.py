"""Real worker processes around a host, and the lines that they write. Nothing outlives the context."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import diloco

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def settings(rounds: int, failure_timeout_s: float = 1.5, min_peers: int = 2) -> diloco.RunSettings:
    """Plain averaging of fp32, so that what a round did to the parameters names who was in it."""
    return diloco.RunSettings.model_validate(
        {
            "run": {
                "rounds": rounds,
                "failure_timeout_s": failure_timeout_s,
                "grace_s": 20.0,
                "min_peers": min_peers,
                "outlier_factor": 0.0,  # contributions differ by powers of four here
                "max_influence": 0.0,
            },
            "method": {"preset": "local_sgd", "sync_every": 4},
        }
    )


class Processes:
    """Workers by index, each with its log."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.ticket = folder / "ticket"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, index: int, *options: str) -> None:
        program = [sys.executable, str(HERE / "vector_worker.py"), str(self.ticket), str(index)]
        self.run(f"w{index}", [*program, str(self.size), str(self.folder / f"w{index}.jsonl"), *options])

    def run(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment()
            )

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}

    def lines(self, index: int, event: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / f"w{index}.jsonl"
        if not path.exists():
            return []
        whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = [json.loads(line) for line in whole]
        return [each for each in found if event in (None, each["event"])]

    def until(self, what: Callable[[], Any], seconds: float = 45.0) -> Any:
        """Poll until ``what`` is true; a worker that ended with an error ends the wait."""
        give_up = time.monotonic() + seconds
        while not (found := what()):
            for name, process in self.processes.items():
                assert process.poll() in (None, 0, -signal.SIGKILL), self.words(name)
            assert time.monotonic() < give_up, "\n".join(self.words(name) for name in self.processes)
            time.sleep(0.02)
        return found

    def words(self, name: str) -> str:
        return f"{name}: " + (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def wait(self, *names: str) -> None:
        """Until these ended well."""
        for name in names:
            assert self.processes[name].wait(60) == 0, self.words(name)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


def same_everywhere(processes: Processes, indexes: list[int]) -> dict[int, dict[str, Any]]:
    """All commits by index; asserts that everyone who saw one holds the same commit and state."""
    commits: dict[int, dict[str, Any]] = {}
    for index in indexes:
        for line in processes.lines(index, "committed"):
            first = commits.setdefault(line["index"], line)
            assert (line["commit"], line["state"]) == (first["commit"], first["state"])
            assert line["value"] == line["last"], "elements of different owners moved differently"
    return commits


def names_in(commits: dict[int, dict[str, Any]], index: int, before: float) -> str:
    """The sum that a round applied, to the base 4: a 1 at position i means that worker i is in it once. (Of
    larger powers fp32 would lose the last digits after a few rounds.)"""
    line = commits[index]
    moved = (before - line["value"]) * line["members"]
    return np.base_repr(round(moved), 4)
