"""What a run came to, read from the workers' JSON lines: a summary, and a loss curve as PNG.

Every number is computed from the files; nothing is assumed about a run that did not happen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FP32_BYTES = 4


@dataclass(slots=True)
class WorkerLog:
    """One worker's lines."""

    name: str
    steps: list[tuple[int, float]] = field(default_factory=list)
    """Tokens that this worker had trained, and its training loss."""
    active: dict[str, Any] | None = None
    end: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The run in numbers. Bytes are per worker."""

    before: float
    after: float
    steps: int
    rounds: int
    num_workers: int
    num_parameters: int
    bytes_sent: float
    data_parallel_bytes: float
    sample: str

    def lines(self) -> list[str]:
        """For people."""
        m = self.num_workers
        ratio = self.data_parallel_bytes / self.bytes_sent
        return [
            f"validation loss  {self.before:.4f} before, {self.after:.4f} after"
            f" ({self.rounds} rounds, {self.steps:,} inner steps of a worker)",
            f"sent per worker  {self.bytes_sent / 1e6:.1f} MB, everything included; per-step data-parallel"
            f" would have sent {self.data_parallel_bytes / 1e6:,.0f} MB: {ratio:.0f} times as much",
            "                 (2 (M - 1) / M x N x 4 bytes per step,"
            f" M = {m} workers, N = {self.num_parameters:,} values)",
            f"it writes        {self.sample}",
        ]


def read_log(path: Path) -> WorkerLog:
    """The lines of one worker; a last line that a kill cut short is left out."""
    log = WorkerLog(path.stem)
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        entry = json.loads(line)
        match entry["event"]:
            case "began":  # what an earlier process wrote is of another run
                log = WorkerLog(path.stem)
            case "step":
                log.steps.append((entry["tokens"], entry["loss"]))
            case "active":
                log.active = entry
            case "end":
                log.end = entry
    return log


def summarize(logs: list[WorkerLog], num_workers: int) -> Summary:
    """Raises ValueError if no worker saw the beginning, or none the end."""
    began = [log.active for log in logs if log.active is not None and log.active["round"] == 0]
    ended = [log.end for log in logs if log.end is not None]
    if not began or not ended:
        raise ValueError("no worker was there from the beginning" if not began else "no worker saw the end")
    whole = max(ended, key=lambda end: int(end["steps"]))
    parameters = int(began[0]["parameters"])
    per_step = 2 * (num_workers - 1) / num_workers * parameters * FP32_BYTES
    return Summary(
        before=began[0]["validation_loss"],
        after=whole["loss"],
        steps=whole["steps"],
        rounds=whole["rounds"],
        num_workers=num_workers,
        num_parameters=parameters,
        bytes_sent=float(whole["bytes_sent"]),
        data_parallel_bytes=per_step * whole["steps"],
        sample=" ".join(whole["sample"].split())[:160],
    )


def plot_loss(logs: list[WorkerLog], summary: Summary, path: Path) -> None:
    """Training loss of each worker against its tokens, and the validation loss before and after."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for log in logs:
        if log.steps:
            tokens, losses = zip(*log.steps, strict=True)
            axes.plot([t / 1e6 for t in tokens], _smooth(losses), label=log.name, linewidth=1.2)
    end = max((log.steps[-1][0] for log in logs if log.steps), default=0) / 1e6
    axes.plot([0.0, end], [summary.before, summary.after], "k.", markersize=10, label="validation, outer")
    axes.annotate(f"{summary.after:.2f}", (end, summary.after), textcoords="offset points", xytext=(-4, -14))
    axes.set_xlabel("tokens trained by the worker (millions)")
    axes.set_ylabel("loss (nats per byte)")
    axes.set_title(
        f"{summary.num_workers} workers, {summary.rounds} rounds, {summary.num_parameters:,} parameters"
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _smooth(values: tuple[float, ...], share: float = 0.7) -> list[float]:
    """An exponential mean, so that curves can be told apart."""
    smoothed, held = [], values[0]
    for value in values:
        held = share * held + (1 - share) * value
        smoothed.append(held)
    return smoothed
