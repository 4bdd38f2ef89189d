"""Times inner steps of a model in stages, beside torch's `Schedule1F1B` over gloo with the same parts.

Each stage is a process of one thread with one matrix; a microbatch's boundary has the size that is measured,
in fp32. Both sides run at once and take turns, several steps each, so that what else the machine does meets
both; *ours* and *gloo* are the medians of seconds per inner step over the turns, *x* that of their ratios.
Ours is all that a worker does: host, sealed lanes, acknowledged gradients. With --line (as root, Linux with
`ip` and `tc`) each process has a network of its own, whose line carries this rate each way; with --pause a
part waits so many milliseconds forward and twice as many backward besides, and *U* is the share of the time
that a part computes, *of U* that share of what the formula of `diloco plan` says for the line's rate; what a
microbatch takes is measured here, alone, before.

    python scripts/bench_pipeline.py
    python scripts/bench_pipeline.py --stages 3 --line 100mbit --sizes 256KiB --pause 20 --microbatches 32
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench_stream import QUEUE, Place, receive, run
from link_options import size_bytes

WIDTH = 512
NEAR = "10.231.8."
GATE = f"{NEAR}254"


@dataclass(frozen=True, slots=True)
class Shape:
    """What both sides compute."""

    stages: int
    microbatches: int
    rows: int
    pause_s: float
    activations: str
    steps: int
    """In a turn."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one size."""

    stages: int
    size_bytes: int
    ours_s: float
    gloo_s: float
    ratio: float
    """Median of ours over gloo's, turn by turn."""
    utilization: float
    formula: float
    turns: int


@contextlib.contextmanager
def star(stages: int, rate: str | None) -> Iterator[list[Place]]:
    """A place for each stage, with a line of its own to a switch if there is to be one."""
    if rate is None:
        yield [Place(None, "127.0.0.1")] * stages
        return
    token = secrets.token_hex(2)
    switch, names = f"sw{token}", [f"st{token}{index}" for index in range(stages)]
    limit = ("root", "tbf", "rate", rate, "burst", "32kb", "latency", QUEUE)
    try:
        run("ip", "link", "add", switch, "type", "bridge")
        run("ip", "addr", "add", f"{GATE}/24", "dev", switch)
        run("ip", "link", "set", switch, "up")
        for index, name in enumerate(names):
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"{name}o", "type", "veth", "peer", name, "netns", name)
            run("ip", "link", "set", f"{name}o", "master", switch)
            run("ip", "link", "set", f"{name}o", "up")
            inside = ("ip", "netns", "exec", name)
            run(*inside, "ip", "addr", "add", f"{NEAR}{index + 1}/24", "dev", name)
            run(*inside, "ip", "link", "set", name, "up")
            run(*inside, "ip", "link", "set", "lo", "up")
            run(*inside, "tc", "qdisc", "add", "dev", name, *limit)
            run("tc", "qdisc", "add", "dev", f"{name}o", *limit)
        yield [Place(name, f"{NEAR}{index + 1}") for index, name in enumerate(names)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", switch], check=False, capture_output=True)


def part_of(shape: Shape) -> Any:
    """One stage's module."""
    import torch
    from stage_worker import Pause
    from torch import nn

    class Part(nn.Module):
        """One matrix, and the time that is asked for."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner(x)
            if shape.pause_s:
                y = Pause.apply(y, shape.pause_s, 2 * shape.pause_s)
            return y

    torch.set_num_threads(1)
    torch.manual_seed(1)
    return Part()


def our_end(place: Place, stage: int, ticket: str, shape: Shape, pipe: Connection) -> None:
    """One process of ours: stage 0 feeds as many steps as it is told, and says how long they took."""
    place.enter()
    import torch
    from stage_worker import loss_sum

    import diloco
    from diloco.pipeline.boundary import Boundary
    from diloco.pipeline.staging import part_of as stage_of

    model = part_of(shape)
    boundary = Boundary((1, shape.rows, WIDTH))
    x, targets = torch.randn(1, shape.rows, WIDTH), torch.zeros(1, shape.rows, dtype=torch.long)

    def fed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while pipe.recv():
            turns.append(time.perf_counter())
            for _ in range(shape.steps * shape.microbatches):
                yield x, targets

    turns: list[float] = []
    with diloco.join(ticket, listen=f"tcp://{place.host}:0", name=f"s{stage}") as swarm:
        part = stage_of(swarm.settings, swarm.ask_stage(stage))
        made = diloco.stage(
            model,
            torch.optim.SGD(model.parameters(), lr=1e-6),
            swarm,
            part=part,
            boundary=part.ends(boundary),
            loss=loss_sum if part.is_last else None,
            targets_shape=(1, shape.rows),
        )
        pipe.send("active")
        if not part.is_first:
            for _ in made.run():
                pass
            return
        for done, _ in enumerate(made.run(fed()), 1):
            if done % shape.steps == 0:
                pipe.send((time.perf_counter() - turns[-1]) / shape.steps)


def gloo_end(place: Place, rank: int, where: tuple[str, int], shape: Shape, pipe: Connection) -> None:
    """One process of gloo."""
    place.enter()
    os.environ["GLOO_SOCKET_IFNAME"] = place.network or "lo"
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B
    from torch.nn.functional import cross_entropy

    model = part_of(shape)
    store = dist.TCPStore(where[0], where[1], shape.stages, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=shape.stages)
    stage = PipelineStage(model, rank, shape.stages, torch.device("cpu"))
    tokens = shape.microbatches * shape.rows

    def loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(output.flatten(0, -2), targets.flatten(), reduction="sum") / tokens

    schedule = Schedule1F1B(stage, shape.microbatches, loss_fn=loss, scale_grads=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    x = torch.randn(shape.microbatches, shape.rows, WIDTH)
    targets = torch.zeros(shape.microbatches, shape.rows, dtype=torch.long)
    pipe.send("active")
    while pipe.recv():
        began = time.perf_counter()
        for _ in range(shape.steps):
            optimizer.zero_grad(set_to_none=True)
            if rank == 0:
                schedule.step(x)
            elif rank == shape.stages - 1:
                schedule.step(target=targets, losses=[])
            else:
                schedule.step()
            optimizer.step()
        pipe.send((time.perf_counter() - began) / shape.steps)
    dist.destroy_process_group()


class Side:
    """The processes of one side; nothing outlives the context."""

    def __init__(self, target: Any, places: list[Place], argument: Any, shape: Shape) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for index, place in enumerate(places):
            near, far = context.Pipe()
            ends = (place, index, argument, shape, far)
            self.pipes.append(near)
            self.processes.append(context.Process(target=target, args=ends))
            self.processes[-1].start()

    def __enter__(self) -> Side:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            receive(pipe, process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def turn(self, everyone: bool) -> float:
        """Seconds per step, as stage 0 sees it."""
        for pipe in self.pipes if everyone else self.pipes[:1]:
            pipe.send(True)
        found = [
            receive(pipe, process)
            for pipe, process in zip(self.pipes, self.processes, strict=True)
            if everyone or pipe is self.pipes[0]
        ]
        assert isinstance(found[0], float)
        return found[0]


def measure(options: argparse.Namespace, stages: int, size: int) -> Result:
    """Both sides, turn by turn."""
    import diloco
    from diloco.settings import RunSettings

    shape = Shape(
        stages,
        options.microbatches,
        max(1, size // (4 * WIDTH)),
        options.pause / 1000,
        options.activations,
        options.steps,
    )
    settings = RunSettings.model_validate(
        {
            "run": {"rounds": 10**6, "min_peers": 1, "failure_timeout_s": 20.0},
            "method": {"preset": "local_sgd", "sync_every": 10**6, "codec": "fp32"},
            "pipeline": {
                "stages": stages,
                "quota": shape.microbatches,
                "activations": shape.activations,
                "recompute": False,
            },
        }
    )
    t = alone_s(shape)
    host = GATE if options.line else "127.0.0.1"
    with star(stages, options.line) as places, contextlib.ExitStack() as stack:
        swarm = stack.enter_context(
            diloco.host(settings, listen=f"tcp://{host}:0", state=options.folder / "h")
        )
        ours = stack.enter_context(Side(our_end, places, swarm.ticket, shape))
        yardstick = None
        if not options.no_gloo:
            where = places[0].host, 29600 + secrets.randbelow(300)
            yardstick = stack.enter_context(Side(gloo_end, places, where, shape))
        mine, theirs = [], []
        for turn in range(options.turns + 1):
            seconds = ours.turn(everyone=False)
            other = yardstick.turn(everyone=True) if yardstick is not None else 0.0
            if turn:  # the first one warms up
                mine.append(seconds)
                theirs.append(other)
    found = statistics.median(mine)
    u = formula(shape, t, size, options.line)
    utilization = shape.microbatches * t / found
    ratios = [a / b for a, b in zip(mine, theirs, strict=True) if b] or [float("nan")]
    medians = found, statistics.median(theirs), statistics.median(ratios)
    return Result(stages, size, *medians, utilization, u, options.turns)


def alone_s(shape: Shape) -> float:
    """Seconds of one microbatch, forward and backward, of a part in the middle."""
    import torch

    model = part_of(shape)
    times = []
    for _ in range(9):
        x = torch.randn(1, shape.rows, WIDTH, requires_grad=True)
        began = time.perf_counter()
        model(x).sum().backward()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def formula(shape: Shape, t: float, size: int, line: str | None) -> float:
    """Utilization of a line of stages, of ``t`` seconds a microbatch."""
    stages, count = shape.stages, shape.microbatches
    c = encoded_bytes(shape, size) * 8 / bits(line) if line else 0.0
    n = 2 * c if stages > 2 else c
    alone = stages * t + (stages - 1) * 2 * c
    return count * t / ((count - 1) * max(t, n) + alone)


def encoded_bytes(shape: Shape, size: int) -> float:
    """Of a boundary, each way."""
    return {"fp32": 1.0, "bf16": 0.5, "int8": 260 / 1024}[shape.activations] * size


def bits(line: str) -> float:
    """Per second, of what tc takes: 100mbit."""
    return float(line.removesuffix("bit")[:-1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[line.removesuffix("bit")[-1]]


def row(found: Result) -> str:
    """A line of the table."""
    of = found.utilization / found.formula if found.formula else float("nan")
    return (
        f"{found.stages:>6}{found.size_bytes:>10}{1000 * found.ours_s:>12.1f}{1000 * found.gloo_s:>12.1f}"
        f"{found.ratio:>8.2f}{found.utilization:>8.3f}{found.formula:>8.3f}{of:>8.3f}"
    )


def main(arguments: list[str]) -> list[Result]:
    """The command."""
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = lambda text: [size_bytes(each) for each in text.split(",")]  # noqa: E731
    parser.add_argument("--sizes", type=sizes, default=sizes("64KiB,1MiB,4MiB,16MiB"))
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--microbatches", type=int, default=8, help="of an inner step")
    parser.add_argument("--steps", type=int, default=2, help="in a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.0, help="milliseconds forward, twice backward")
    parser.add_argument("--activations", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--line", help="rate of each process's line, as tc says it: 100mbit")
    parser.add_argument("--no-gloo", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    print(f"{'stages':>6}{'size':>10}{'ours ms':>12}{'gloo ms':>12}{'x':>8}{'U':>8}{'formula':>8}{'of U':>8}")
    results = []
    for stages in options.stages:
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as folder:
                options.folder = Path(folder)
                results.append(measure(options, stages, size))
            print(row(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=1))
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
