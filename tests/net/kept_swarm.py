"""A host and workers as processes, each with a state directory: all of them may be killed at once."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.net.swarm_processes import Processes


class KeptSwarm:
    """A host that does not train, and workers with a state directory each."""

    def __init__(self, processes: Processes, folder: Path, settings: str) -> None:
        self.processes = processes
        self.folder = folder
        toml = folder / "RUN.toml"
        toml.write_text(settings)
        self._host = [sys.executable, "-m", "diloco.cli", "host", str(toml), "--listen", "tcp://127.0.0.1:0"]
        self._host += ["--state", str(folder / "host"), "--ticket-file", str(processes.ticket)]

    def start_host(self) -> None:
        self.processes.run("host", self._host)
        ticket = self.processes.ticket
        self.processes.until(lambda: ticket.exists() and ticket.read_text().endswith("\n"))

    def start_worker(self, index: int, *options: str) -> None:
        self.processes.start(index, "--state", str(self.state_of(index)), *options)

    def state_of(self, index: int) -> Path:
        """Where a worker keeps what is its own."""
        return self.folder / f"state-{index}"

    def commits(self, index: int, *, members: int = 1, above: int = 0) -> list[int]:
        lines = self.processes.lines(index, "committed")
        return [line["index"] for line in lines if line["index"] > above and line["members"] >= members]

    def kill_all(self, num_workers: int) -> int:
        """SIGKILL everyone at once; the newest record that anybody applied."""
        for name in self.processes.processes:
            self.processes.signal(name, signal.SIGKILL)
        for process in self.processes.processes.values():
            process.wait()
        self.processes.processes.clear()
        return max(max(self.commits(index), default=0) for index in range(num_workers))
