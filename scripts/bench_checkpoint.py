"""What checkpoints cost a worker: tokens per second with them and without, in turns, and where the time goes.

One worker trains the built-in model on random bytes, on a host of its own without other members, each time
for --seconds, with a state directory and without, in the order with, without, without, with, and so on.
*blocked* are the seconds for which the training thread took copies instead of training, over those of
training, both by the thread's own clock, which stops while other processes have the processor; *writer* the
seconds of a processor that the writing thread took, over the time. Tokens per second are compared pair by
pair: the median, and the middle half of the pairs.

    python scripts/bench_checkpoint.py
    python scripts/bench_checkpoint.py --sizes 0.8M --pairs 10 --seconds 20
    python scripts/bench_checkpoint.py --sizes 100M --pairs 10 --seconds 120
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import diloco
from diloco.models.gpt import GPT

SIZES: dict[str, dict[str, int]] = {
    "8k": {"layers": 1, "heads": 1, "width": 16, "context": 16},
    "0.8M": {"layers": 4, "heads": 4, "width": 128, "context": 128},
    "100M": {"layers": 14, "heads": 12, "width": 768, "context": 128},
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of training."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    """By the process's own clock, the writing thread's work included."""
    blocked: float
    """Share of the time."""
    writer: float
    written: int
    """Checkpoints."""


def turn(size: dict[str, int], options: argparse.Namespace, keeps: bool, folder: Path) -> Turn:
    """Train for so long."""
    batch, tokens_per_step = options.batch, options.batch * size["context"]
    run = diloco.RunSettings.model_validate(
        {
            "run": {"rounds": 10**6, "min_peers": 1, "failure_timeout_s": 30.0},
            "method": {"preset": "diloco", "sync_every": options.sync_every},
        }
    )
    torch.manual_seed(0)
    model = GPT(size["layers"], size["heads"], size["width"], size["context"], 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    written = []

    def on_event(event: object) -> None:
        if type(event).__name__ == "CheckpointWritten":
            written.append(event)

    with diloco.host(run, listen="tcp://127.0.0.1:0", state=folder) as swarm:
        if not keeps:
            swarm.home = None
        outer = diloco.attach(
            model,
            optimizer,
            swarm,
            tokens_per_step=tokens_per_step,
            timeout_s=600.0,
            on_event=on_event,
        )
        before, began = outer.checkpoint_cost, time.perf_counter()
        ran, all_ran = time.thread_time(), time.process_time()
        for inputs, targets in outer.until_finished(random_batches(batch, size["context"])):
            optimizer.zero_grad(set_to_none=True)
            model.loss(inputs, targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if time.perf_counter() - began > options.seconds:
                outer.stop()
        all_ran = time.process_time() - all_ran
        took, ran, cost = time.perf_counter() - began, time.thread_time() - ran, outer.checkpoint_cost
        blocked, writer = cost.blocked_s - before.blocked_s, cost.writer_cpu_s - before.writer_cpu_s
        return Turn(outer.tokens / took, outer.tokens / all_ran, blocked / ran, writer / took, len(written))


def random_batches(batch: int, context: int) -> Any:
    """Without end."""
    while True:
        window = torch.randint(256, (batch, context + 1))
        yield window[:, :-1], window[:, 1:]


def main(arguments: list[str] | None = None) -> dict[str, str]:
    """Take turns, and print a line for each size, which is returned too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.8M", "100M"])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--sync-every", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to write to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = {}
    for name in options.sizes:
        pairs = []
        for number in range(options.pairs):
            found: dict[bool, Turn] = {}
            for keeps in (True, False) if number % 2 == 0 else (False, True):
                with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                    found[keeps] = turn(SIZES[name], options, keeps, Path(folder))
                gc.collect()  # a turn's model is large, and few objects hold it
            pairs.append(found)
            print(
                f"  {name} pair {number}: {found[True]} {found[False].tokens_per_s:.0f} without", flush=True
            )
        lines[name] = summary(name, pairs)
        print(lines[name], flush=True)
    return lines


def summary(name: str, pairs: list[dict[bool, Turn]]) -> str:
    """One line."""
    by_wall, by_own = (_ratios(pairs, what) for what in ("tokens_per_s", "tokens_per_cpu_s"))
    kept = [found[True] for found in pairs]
    blocked, writer = [each.blocked for each in kept], [each.writer for each in kept]
    return (
        f"{name}: tokens/s {by_wall} of those without, per processor second {by_own}, {len(pairs)} pairs; "
        f"blocked {100 * statistics.median(blocked):.2f} % (at most "
        f"{100 * max(blocked):.2f} %), writer {100 * statistics.median(writer):.1f} % of a processor, "
        f"{sum(each.written for each in kept)} checkpoints"
    )


def _ratios(pairs: list[dict[bool, Turn]], what: str) -> str:
    """With over without: the median, and the middle half."""
    found = sorted(getattr(each[True], what) / getattr(each[False], what) for each in pairs)
    low, high = found[len(found) // 4], found[-1 - len(found) // 4]
    return f"{statistics.median(found):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    logging.getLogger("diloco").setLevel(logging.ERROR)
    main()
