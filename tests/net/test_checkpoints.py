"""Real processes that all die: the second start goes on by itself, with the rounds that were committed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.net.swarm_processes import Processes, same_everywhere

pytestmark = pytest.mark.timeout(150)
SETTINGS = """
[run]
rounds = 500
failure_timeout_s = 1.5
outlier_factor = 0.0
max_influence = 0.0
[method]
preset = "local_sgd"
sync_every = 4
"""


class Swarm:
    """A host that does not train, and workers with a state directory each."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        toml = folder / "RUN.toml"
        toml.write_text(SETTINGS)
        self._host = [sys.executable, "-m", "diloco.cli", "host", str(toml), "--listen", "tcp://127.0.0.1:0"]
        self._host += ["--state", str(folder / "host"), "--ticket-file", str(processes.ticket)]

    def start_host(self) -> None:
        self.processes.run("host", self._host)
        ticket = self.processes.ticket
        self.processes.until(lambda: ticket.exists() and ticket.read_text().endswith("\n"))

    def start_worker(self, index: int) -> None:
        self.processes.start(index, "--state", str(self.folder / f"state-{index}"))

    def commits(self, index: int, *, members: int = 1, above: int = 0) -> list[int]:
        lines = self.processes.lines(index, "committed")
        return [line["index"] for line in lines if line["index"] > above and line["members"] >= members]

    def kill_all(self) -> int:
        """SIGKILL everyone at once; the newest record that anybody applied."""
        for name in self.processes.processes:
            self.processes.signal(name, signal.SIGKILL)
        for process in self.processes.processes.values():
            process.wait()
        self.processes.processes.clear()
        return max(max(self.commits(index), default=0) for index in range(3))


def test_when_every_process_was_killed_the_second_start_goes_on_and_no_round_is_lost(tmp_path: Path) -> None:
    """In another order, and with one of them missing."""
    with Processes(tmp_path, 1000) as processes:
        swarm = Swarm(processes, tmp_path)
        swarm.start_host()
        for index in range(3):
            swarm.start_worker(index)
        processes.until(lambda: len(swarm.commits(0, members=3)) >= 3)
        last = swarm.kill_all()
        swarm.start_worker(2)
        swarm.start_host()
        swarm.start_worker(0)
        processes.until(lambda: swarm.commits(0, members=2, above=last))
        processes.until(lambda: swarm.commits(2, members=2, above=last))
        assert processes.lines(0, "restored")
        assert processes.lines(2, "restored")
    commits = same_everywhere(processes, [0, 1, 2])
    assert sorted(commits) == list(range(1, max(commits) + 1)), "no record was given up, and none is missing"
