"""What the outer side costs a loop whose steps take long: per inner step, and at the step that ends a round.

A stack of linear layers (--width, --layers; the default has a billion parameters) takes inner steps by AdamW
on --device, first by itself and then attached to a swarm of one, whose rounds go through the codec but over
no network. In one process, or as a site of several ranks with `fully_shard`:

    python scripts/bench_site.py --device cuda
    torchrun --nproc-per-node 2 scripts/bench_site.py --device cuda
    python scripts/bench_site.py --width 64 --layers 2 --sync-every 3 --rounds 3      # on any machine

Medians by the clock on the wall, with the device idle before and after what is timed. *meeting* is what a
step takes longer at which nothing is due, *sync* the same of one that ends a round, and *share* what both add
to all steps of a round. The parts of a sync: *contribution* (the live model is read, compared and encoded),
*apply* (the outer step), *land* (the model is written). *overlap* is how much of the time that reading all
parameters into pinned memory takes is hidden by a step that the device has still to compute: 0 without one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

import diloco
from diloco.outer.replica import TensorReplica
from diloco.training.attach import attach

PARTS = ("contribution", "apply", "land")


class Loop:
    """A loop that trains on numbers at random."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        torch.manual_seed(0)
        layers = [nn.Linear(options.width, options.width, device=self.device) for _ in range(options.layers)]
        self.model = nn.Sequential(*layers)
        if dist.is_initialized():
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
            for layer in layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self._x = torch.randn(options.tokens, options.width, device=self.device)

    def forward_backward(self) -> None:
        """All of a step but the optimizer's."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            found: Tensor = self.model(self._x).square().mean()
        found.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """One inner step; its seconds."""
        self.wait()
        began = time.perf_counter()
        self.forward_backward()
        self.optimizer.step()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measured(loop: Loop, options: argparse.Namespace) -> dict[str, float]:
    """Seconds, but for *share* and *overlap*."""
    alone = statistics.median(loop.step() for _ in range(2 + options.steps))
    method = {"preset": "diloco", "sync_every": options.sync_every, "codec": options.codec}
    run = {"rounds": options.rounds, "min_peers": 1}
    settings = diloco.RunSettings.model_validate({"run": run, "method": method})
    speaks = not dist.is_initialized() or dist.get_rank() == 0
    group = {"group": dist.group.WORLD} if dist.is_initialized() else {}
    spent: dict[str, list[float]] = {name: [] for name in PARTS}
    with diloco.solo(settings) if speaks else nullcontext() as swarm:
        outer = attach(loop.model, loop.optimizer, swarm, tokens_per_step=options.tokens, **group)
        for name in PARTS:
            setattr(TensorReplica, name, _timed(getattr(TensorReplica, name), spent[name], loop))
        rounds: list[list[float]] = [[]]
        while not outer.finished:
            before = outer.round
            rounds[-1].append(loop.step())
            if outer.round > before:
                rounds.append([])
    whole = [each for each in rounds[1:] if each] or rounds[
        :1
    ]  # memory is touched for the first time in the first
    quiet = statistics.median(seconds for each in whole for seconds in each[:-1])
    sync = statistics.median(each[-1] for each in whole)
    found = {"step alone": alone, "meeting": quiet - alone, "sync": sync - alone}
    found |= {name: statistics.median(each) if each else 0.0 for name, each in spent.items()}
    added = statistics.median(sum(each) - len(each) * alone for each in whole)
    return {**found, "share": added / (options.sync_every * alone), "overlap": overlap(loop)}


def _timed(run: Callable[..., Any], spent: list[float], loop: Loop) -> Callable[..., Any]:
    @wraps(run)
    def timed(*given: Any, **named: Any) -> Any:
        loop.wait()
        began = time.perf_counter()
        found = run(*given, **named)
        loop.wait()
        spent.append(time.perf_counter() - began)
        return found

    return timed


def overlap(loop: Loop) -> float:
    """The share of a copy of all parameters that lies behind work of the device; 0 on a CPU."""
    if loop.device.type != "cuda" or dist.is_initialized():
        return 0.0
    values = [each.detach().reshape(-1) for each in loop.model.parameters()]
    pinned = torch.empty(sum(each.numel() for each in values), pin_memory=True)
    stream = torch.cuda.Stream(loop.device)

    def copy() -> None:
        with torch.cuda.stream(stream):
            at = 0
            for each in values:
                pinned[at : (at := at + each.numel())].copy_(each, non_blocking=True)

    def seconds(*what: Callable[[], None]) -> float:
        loop.wait()
        began = time.perf_counter()
        for each in what:
            each()
        loop.wait()
        return time.perf_counter() - began

    step = loop.forward_backward
    times = [(seconds(copy), seconds(step), seconds(step, copy)) for _ in range(5)]
    alone, work, both = (statistics.median(each) for each in zip(*times, strict=True))
    return max(0.0, min(1.0, (alone + work - both) / alone))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Measure, and print on the first rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=4096, help="of a step and rank")
    parser.add_argument("--sync-every", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps without a swarm")
    parser.add_argument("--codec", default="int4")
    options = parser.parse_args(arguments)
    if "RANK" in os.environ:
        cuda = options.device == "cuda"
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    loop = Loop(options)
    found = measured(loop, options)
    found["parameters"] = sum(each.numel() for each in loop.model.parameters())
    if not dist.is_initialized() or dist.get_rank() == 0:
        what = f"{found.pop('parameters'):,} parameters, {options.codec}, H = {options.sync_every}"
        print(f"{what}, {options.device}")
        for name, value in found.items():
            shown = f"{value:10.2%}" if name in ("share", "overlap") else f"{1e3 * value:10.2f} ms"
            print(f"{name:14} {shown}")
    if dist.is_initialized():
        dist.destroy_process_group()
    return found


if __name__ == "__main__":
    main()
