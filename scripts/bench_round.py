"""What a round costs the thread that trains, and the whole process, by part and in copies of the vector.

Workers (processes on loopback, one of them the host) hold a model of --elements fp32 values in one tensor and
take free inner steps: no gradients, so that nothing but the outer side runs. Each step is a round of the
method `diloco` with --codec. Seconds are those of the training thread by its own clock, which stands still
while other threads and processes run, so they count work and no waits; *process* is the processor time of
all threads of that process. A copy is one `copy_` of the vector, timed in the same process between rounds.
Medians over the rounds and the workers; the first two rounds, which touch memory for the first time, are left
out. "other" is what no part counts: events, commands, polls. *sync* is how long `optimizer.step` takes by the
clock on the wall, with all waits; *fresh memory* are pages that the system gave to the process in a round and
had to clear; *peak memory* is by how much resident memory grew since before `attach`, with the model there.

    python scripts/bench_round.py
    python scripts/bench_round.py --elements 1000000 --rounds 5
    python scripts/bench_round.py --state          # with checkpoints
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from process_usage import MIB, peak_mib
from torch import nn

import diloco
from diloco.outer.local_state import LocalState
from diloco.outer.replica import TensorReplica
from diloco.outer.state import OuterState

PARTS: dict[str, tuple[type, str]] = {
    "contribution": (TensorReplica, "contribution"),
    "pseudo-gradient": (LocalState, "measured_gradient"),
    "apply": (TensorReplica, "apply"),
    "outer step": (OuterState, "step"),
    "check": (TensorReplica, "check"),
    "land": (TensorReplica, "land"),
}
"""Methods that are timed; "pseudo-gradient" lies within "contribution", "outer step" within "apply"."""
WITHIN = ("pseudo-gradient", "outer step")
_UNTIMED = 2


@dataclass(slots=True)
class Round:
    """Seconds of one round in one process."""

    thread_s: float
    process_s: float
    copy_s: float
    sync_s: float
    fresh_bytes: int
    grown_bytes: int
    parts: dict[str, float]


@dataclass(slots=True)
class Clock:
    """Adds up the training thread's seconds in each part."""

    spent: dict[str, float] = field(default_factory=dict)

    def watch(self) -> None:
        """Time every call of the parts from now on."""
        for name, (owner, method) in PARTS.items():
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(run)
        def timed(*given: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return run(*given, **named)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - began

        return timed

    def take(self) -> dict[str, float]:
        """What was spent since the last call."""
        taken, self.spent = self.spent, {}
        return taken


class Vector(nn.Module):
    """A model of one tensor."""

    def __init__(self, num_elements: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(num_elements, generator=torch.Generator().manual_seed(0)))


def settings(options: argparse.Namespace) -> diloco.RunSettings:
    """The run's."""
    return diloco.RunSettings.model_validate(
        {
            "run": {"rounds": options.rounds + _UNTIMED, "min_peers": options.workers},
            "method": {"preset": "diloco", "sync_every": 1, "codec": options.codec},
        }
    )


def train(swarm: diloco.Swarm, options: argparse.Namespace) -> list[Round]:
    """All rounds of one worker."""
    torch.set_num_threads(options.threads)
    clock, found = Clock(), list[Round]()
    model = Vector(options.elements)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    spare, source = torch.ones(options.elements), torch.ones(options.elements)
    before_mib = peak_mib(os.getpid())
    outer = diloco.attach(model, optimizer, swarm, tokens_per_step=1, timeout_s=600.0)
    clock.watch()
    while not outer.finished:
        clock.take()
        with torch.no_grad():
            model.values.add_(source, alpha=1e-3)  # what an inner step would have done
        began, all_began, wall = time.thread_time(), time.process_time(), time.perf_counter()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        optimizer.step()
        thread_s, process_s = time.thread_time() - began, time.process_time() - all_began
        sync_s, used = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
        began = time.thread_time()
        spare.copy_(source)
        copy_s = time.thread_time() - began
        fresh_bytes = resource.getpagesize() * (used.ru_minflt - faults)
        grown_bytes = int((peak_mib(os.getpid()) - before_mib) * MIB)
        found.append(Round(thread_s, process_s, copy_s, sync_s, fresh_bytes, grown_bytes, clock.take()))
    return [each for each in found[_UNTIMED:] if "apply" in each.parts]


def join(ticket: str, state: Path | None, options: argparse.Namespace, results: Any) -> None:
    """A worker in a process of its own."""
    with diloco.join(ticket, state=state) as swarm:
        results.put(train(swarm, options))


def measure(options: argparse.Namespace) -> list[Round]:
    """The rounds of all workers."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder) / str(n) if options.state else None for n in range(options.workers)]
        with diloco.host(settings(options), listen="tcp://127.0.0.1:0", state=Path(folder) / "0") as swarm:
            if not options.state:
                swarm.home = None
            others = [
                context.Process(target=join, args=(swarm.ticket, home, options, results), daemon=True)
                for home in homes[1:]
            ]
            for process in others:
                process.start()
            found = train(swarm, options)
            for _ in others:
                found += results.get(timeout=600)
            for process in others:
                process.join(30)
    return found


def report(found: list[Round], vector_bytes: int) -> dict[str, float]:
    """Copies of the vector, of so many bytes, by part; printed."""

    def middle(pick: Callable[[Round], float]) -> float:
        return statistics.median(pick(each) / each.copy_s for each in found)

    rows = {name: middle(lambda r, name=name: r.parts.get(name, 0.0)) for name in PARTS}
    counted = [name for name in PARTS if name not in WITHIN]
    rows["other"] = middle(lambda r: r.thread_s - sum(r.parts.get(name, 0.0) for name in counted))
    rows["training thread"] = middle(lambda r: r.thread_s)
    rows["process"] = middle(lambda r: r.process_s)
    copy_ms = 1e3 * statistics.median(each.copy_s for each in found)
    print(f"{len(found)} rounds; a copy takes {copy_ms:.2f} ms")
    for name, copies in rows.items():
        print(f"{'  ' if name in WITHIN else ''}{name:20} {copies:7.2f} copies {copies * copy_ms:9.1f} ms")
    rows["sync"] = statistics.median(each.sync_s for each in found)
    rows["fresh memory"] = statistics.median(each.fresh_bytes for each in found) / vector_bytes
    rows["peak memory"] = max(each.grown_bytes for each in found) / vector_bytes
    print(f"{'sync':20} {rows['sync']:7.3f} s")
    for name in ("fresh memory", "peak memory"):
        print(f"{name:20} {rows[name]:7.2f} vectors")
    return rows


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Measure and print; copies of the vector by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 26)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--state", action="store_true", help="with a state directory for each worker")
    options = parser.parse_args(arguments)
    return report(measure(options), 4 * options.elements)


if __name__ == "__main__":
    main()
