"""The demo: a host and several workers as processes of this machine, watched until they are done.

Starts `diloco join` as anyone would, over encrypted loopback links, shows the host's view, may kill
one worker midway, and reads the results from the files that the workers wrote.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

import diloco
from diloco.errors import UserError
from diloco.extras import missing, require
from diloco.monitoring.run_view import RunView, Screen
from diloco.monitoring.training_report import plot_loss, read_log, summarize
from diloco.settings import RunSettings, load_settings

DEMO = RunSettings.model_validate(
    {
        "run": {"name": "demo", "min_peers": 2, "rounds": 14, "failure_timeout_s": 4.0, "grace_s": 20.0},
        "method": {"preset": "diloco", "sync_every": 25},
        "train": {"batch_size": 16, "warmup_steps": 50},
    }
)
_EXIT_S = 90.0


@dataclass
class Workers:
    """The worker processes; all of them end when this does."""

    out: Path
    ticket: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)

    def start(self, name: str, save: Path | None = None) -> None:
        command = [sys.executable, "-m", "diloco.cli", "join", f"@{self.ticket}", "--name", name]
        command += [
            "--no-state",
            "--listen",
            "tcp://127.0.0.1:0",
            "--threads",
            "1",
            "--events",
            str(self.out / f"{name}.jsonl"),
        ]
        command += ["--save", str(save)] if save else []
        with (self.out / f"{name}.log").open("wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its workers in order.
            self.running[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        self.killed.add(name)
        self.running[name].kill()

    def failed(self) -> list[str]:
        """Workers that ended with an error, and not because we killed them."""
        return [n for n, p in self.running.items() if p.poll() not in (None, 0) and n not in self.killed]

    def last_words(self, name: str) -> str:
        lines = (self.out / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-5:])

    def ended_well(self) -> bool:
        return any(process.poll() == 0 for process in self.running.values())

    def all_ended(self) -> bool:
        return all(process.poll() is not None for process in self.running.values())

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + 5.0
        for process in self.running.values():
            try:
                process.wait(max(0.1, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_demo(
    num_workers: int, rounds: int | None, kill: bool, out: Path, run: Path | None, capture: Path | None
) -> int:
    """Run it all; the exit code."""
    require("train", "diloco demo")
    settings = DEMO if run is None else load_settings(run)
    if rounds is not None:
        settings = settings.model_copy(update={"run": settings.run.model_copy(update={"rounds": rounds})})
    empty_folder(out)
    began = time.monotonic()
    view = RunView(f"diloco demo: {num_workers} workers on this machine", settings.run.rounds)
    screen = Screen(view, Console())
    swarm = diloco.host(settings, listen="tcp://127.0.0.1:0", state=out / "host", on_trace=screen.on_trace)
    ticket = out / "ticket"
    with swarm, Workers(out, ticket) as workers:
        with open(os.open(ticket, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(swarm.ticket)
        for index in range(num_workers):
            workers.start(f"w{index}", out / "model.safetensors" if index == 0 else None)
        with screen:
            failed = _watch(view, workers, settings.run.rounds, num_workers if kill else None, capture)
    if failed:
        for name in failed:
            print(f"{name} ended with an error:\n{workers.last_words(name)}", file=sys.stderr)
        return 1
    return _report(out, num_workers, time.monotonic() - began)


def _watch(
    view: RunView, workers: Workers, rounds: int, fresh: int | None, capture: Path | None
) -> list[str]:
    """Until all workers ended; those that failed. ``fresh`` numbers the one that joins after a kill."""
    finished_at: float | None = None
    while not workers.all_ended():
        time.sleep(0.1)
        done = view.rounds_done >= rounds
        if not done and (failed := workers.failed()):
            return failed
        midway = view.rounds_done >= rounds // 2
        if fresh is not None and midway:
            workers.kill("w1")
            view.notes.append(f"{time.monotonic() - view.began:6.1f} s  SIGKILL to w1; w{fresh} starts")
            workers.start(f"w{fresh}")
            fresh = None
        if capture is not None and view.rounds_done >= max(1, rounds * 3 // 4):
            _capture(view, capture)
            capture = None
        if done:
            finished_at = finished_at or time.monotonic()
            if time.monotonic() - finished_at > _EXIT_S:
                return [name for name, process in workers.running.items() if process.poll() is None]
    # A fresh worker that came when all was done is told so, and that is no failure of the run.
    return [] if workers.ended_well() else workers.failed()


def _capture(view: RunView, path: Path) -> None:
    console = Console(record=True, width=86, file=io.StringIO(), force_terminal=True)
    console.print(view.render())
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the web fonts that rich names: a picture in a repository loads nothing from elsewhere.
    svg = re.sub(
        r"@font-face \{.*?\}", "", console.export_svg(title="./scripts/demo --kill"), flags=re.DOTALL
    )
    path.write_text(svg, encoding="utf-8")


def _report(out: Path, num_workers: int, seconds: float) -> int:
    logs = [read_log(path) for path in sorted(out.glob("w*.jsonl"))]
    summary = summarize(logs, num_workers)
    curve = f"{out / 'loss.png'}"
    if (line := missing("plot")) is not None:
        curve = f"not drawn: {line}"
    else:
        plot_loss(logs, summary, out / "loss.png")
    print(f"done in {seconds:.0f} s")
    print("\n".join(summary.lines()))
    print(f"loss curve       {curve}\nmodel            {out / 'model.safetensors'}")
    return 0


def empty_folder(out: Path) -> None:
    """A fresh folder; one that holds something else than an earlier demo is left alone."""
    if out.exists() and any(out.iterdir()):
        if not (out / "host").is_dir():
            raise UserError(f"{out} holds something that is no demo: choose another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
