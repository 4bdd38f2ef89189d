"""The processes and lines of a run under chaos: a host, workers, and a link before each that can be broken.

Starts, kills, stops and looks; what happens when is chaos_swarm.py's. Ends nothing that it did not start.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from chaos_story import LostDisk, Sample
from chaos_worker import Part, work
from emulate_link import ELSEWHERE, BackgroundLink, free_port, running_link
from fork_server import fork_server
from link_options import LinkSpec
from process_usage import cpu_seconds, num_descriptors, num_eventfds, num_threads, resident_mib

from peers.coordinator.journal import CommitWritten
from peers.coordinator.journal_file import Journal
from peers.protocol.record import Record

LINE = LinkSpec(rate_bps=400e6, rtt_s=0.002, queue_bytes=1_250_000)
HOST = -1
"""In the place of a worker's column."""
_FULL_BYTES = 4096
_IDENTITIES = 1024
"""That may come in an hour, as disks are lost; a ticket lets in half of a run's places if nothing is said."""
_RUN = """\
[run]
rounds = 1000000
failure_timeout_s = 3
grace_s = 5
min_peers = 2
outlier_factor = 0.0
max_influence = 0.0
[method]
preset = 'local_sgd'
sync_every = 5
"""


class Processes:
    """A host and ``peers`` workers, each behind a link of its own; nothing outlives the context."""

    def __init__(self, folder: Path, peers: int, elements: int, step_s: float) -> None:
        self.folder, self.peers = folder, peers
        self._elements, self._step_s = elements, step_s
        self._context = fork_server("chaos_worker")
        self._open = ExitStack()
        self.links: dict[int, BackgroundLink] = {}
        self._ports: dict[int, tuple[int, int]] = {}
        """By column: where it listens, and where its link does."""
        self.workers: dict[int, Any] = {}
        self.host: subprocess.Popen[bytes] | None = None
        self._saying: list[subprocess.Popen[bytes]] = []
        self.frozen: set[int] = set()
        self.told = Told(folder)
        self.lost_disks: list[LostDisk] = []
        self._leaving: set[int] = set()
        self._num_names = 0
        self._ticket = ""

    def __enter__(self) -> Processes:
        (self.folder / "RUN.toml").write_text(_RUN)
        for column in (HOST, *range(self.peers)):
            link, port = self._open.enter_context(running_link(LINE)), free_port()
            self.links[column] = link
            self._ports[column] = port, link.map_with_bulk(port, port + 1)[1]
        return self

    def __exit__(self, *_: object) -> None:
        for column in list(self.workers):
            self.kill(column)
        self.kill_host()
        for says in self._saying:
            says.wait()
        self._open.close()

    # -- starting and ending --------------------------------------------------------------------

    def start_host(self) -> None:
        """A host that goes on with the run, where it listened before. It listens when it has a ticket."""
        port, outside = self._ports[HOST]
        ticket = self.folder / "ticket"
        ticket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "diloco.cli", "host", str(self.folder / "RUN.toml")]
        command += ["--listen", f"tcp://127.0.0.1:{port}", "--advertise", f"tcp://{ELSEWHERE}:{outside}"]
        command += ["--state", str(self.folder / "host"), "--ticket-file", str(ticket)]
        command += ["--ticket-uses", str(_IDENTITIES)]
        with (self.folder / "host.log").open("ab") as log:
            # Through a pipe: what it says does not lie on the disk that may be full.
            says = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        self.host = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=says.stdin, stderr=says.stdin)
        assert says.stdin is not None
        says.stdin.close()
        self._saying.append(says)

    def kill_host(self) -> None:
        if self.host is not None:
            self.host.kill()
            self.host.wait()
            self.host = None
            self.frozen.discard(HOST)

    @property
    def host_listens(self) -> bool:
        path = self.folder / "ticket"
        if self.host is None or not path.exists() or not (found := path.read_text()).endswith("\n"):
            return False
        self._ticket = found.strip()
        return True

    def start(self, column: int, fresh: bool = False, stops_in_exchange: bool = False) -> None:
        """A worker, as who it was before or with a new identity; it may be told to stop in an exchange."""
        if fresh:
            self._num_names += 1
            home = self.folder / f"w{column}"
            self._lose_disk(column, -math.inf, math.inf)
            if home.exists():
                shutil.move(home, self.folder / f"w{column}.before{self._num_names}")
        port, outside = self._ports[column]
        part = Part(
            str(self.folder),
            self._ticket,
            f"w{column}",
            column,
            self.peers,
            self._elements,
            self._step_s,
            f"tcp://127.0.0.1:{port}",
            f"tcp://{ELSEWHERE}:{outside}",
            os.getpid(),
            stops_in_exchange,
        )
        self.workers[column] = self._context.Process(target=work, args=(part,))
        self.workers[column].start()

    def kill(self, column: int) -> None:
        process = self.workers.pop(column)
        process.kill()
        process.join()
        self.frozen.discard(column)
        self._leaving.discard(column)
        self.told.forget_life(f"w{column}")

    def ask_to_leave(self, column: int) -> None:
        """By SIGTERM; it ends by itself, soon."""
        self._leaving.add(column)
        os.kill(self._pid(column), signal.SIGTERM)

    def fill_disk(self, column: int) -> None:
        """From here on the kernel refuses what would make a file of this process larger than a few bytes."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self._pid(column), resource.RLIMIT_FSIZE, (_FULL_BYTES, hard))

    def empty_disk(self, column: int, full_since: float) -> None:
        self._lose_disk(column, full_since, time.monotonic())
        if column in self.workers or (column == HOST and self.host is not None):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            with suppress(ProcessLookupError):
                resource.prlimit(self._pid(column), resource.RLIMIT_FSIZE, (hard, hard))

    def _lose_disk(self, column: int, since: float, until: float) -> None:
        keys = [key for key, of in self.told.column_of.items() if of == column]
        self.lost_disks += [LostDisk(key, since, until) for key in keys]

    def freeze(self, column: int) -> None:
        os.kill(self._pid(column), signal.SIGSTOP)
        self.frozen.add(column)

    def thaw(self, column: int) -> None:
        if column in self.frozen:
            self.frozen.discard(column)
            os.kill(self._pid(column), signal.SIGCONT)

    def _pid(self, column: int) -> int:
        process = self.host if column == HOST else self.workers[column]
        assert process is not None
        return int(process.pid)

    # -- looking --------------------------------------------------------------------------------

    def ended(self) -> list[tuple[int, str]]:
        """Columns of those who have ended by themselves, with a line for each; they are forgotten."""
        found = []
        for column, process in list(self.workers.items()):
            if process.exitcode is not None:
                if column not in self._leaving or process.exitcode != 128 + signal.SIGTERM:
                    found.append((column, f"w{column} has ended by itself, exit code {process.exitcode}"))
                self.kill(column)
        if self.host is not None and self.host.poll() is not None:
            found.append((HOST, f"the host has ended by itself, exit code {self.host.poll()}"))
            self.kill_host()
        return found

    def look(self, now: float) -> list[Sample]:
        """What each process takes."""
        pids = {f"w{column}": process.pid for column, process in self.workers.items()}
        if self.host is not None:
            pids["host"] = self.host.pid
        return [
            Sample(
                name,
                pid,
                now,
                cpu_seconds(pid),
                resident_mib(pid),
                num_threads(pid),
                num_descriptors(pid),
                num_eventfds(pid),
            )
            for name, pid in pids.items()
        ]

    def records(self) -> list[Record]:
        """All records of the journal; the host must not run."""
        assert self.host is None, "a journal has one owner"
        found = []
        for path in self.folder.glob("host/**/journal-*"):
            journal = Journal(path)
            found += [entry.commit() for entry in journal.entries() if isinstance(entry, CommitWritten)]
            journal.close()
        return found


class Told:
    """What workers told, read as it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.lines: list[dict[str, Any]] = []
        self.column_of: dict[str, int] = {}
        self.active: dict[str, str] = {}
        """By name the key of who holds the shared state in its present life."""
        self.last: dict[str, dict[str, Any]] = {}
        """By name the newest commit of its present life."""

    def forget_life(self, name: str) -> None:
        """This worker's process has ended: what it wrote is read first."""
        self.read()
        self.active.pop(name, None)
        self.last.pop(name, None)

    def read(self) -> None:
        for path in self._folder.glob("w*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole = file.read().rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(whole[0]) + len(whole[1])
            for text in whole[0].splitlines():
                self._take(json.loads(text))

    def _take(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        match line["event"]:
            case "life":
                self.column_of[line["key"]] = line["column"]
            case "active":
                self.active[line["name"]] = line["key"]
            case "committed":
                self.last[line["name"]] = line


def wait_until(condition: Any, seconds: float) -> bool:
    """Whether it became true in time."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True
