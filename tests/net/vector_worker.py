"""A worker process whose contribution names it: worker i moves every element by 4**i per round.

    python vector_worker.py TICKET_FILE INDEX SIZE OUT.jsonl [--in-exchange SIGKILL|SIGSTOP] [--over-curve]

Writes what it sees as JSON lines. With --in-exchange it kills or stops itself in the middle of one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from in_exchange import InExchangeTrace, trace_the_exchange
from torch import nn

import diloco
from peers.protocol.events import (
    CheckpointRestored,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    ProgressLost,
    RoundCommitted,
    RoundOpened,
)
from tests.net.over_curve import OPTION, carried
from transport.effects import Trace


class Suspended:
    """The clocks of a machine that sleeps: the one that counts stands still, and that of the wall is ahead by
    a year after."""

    _GAP_S = 1.9
    """The network thread looks at the clock each second at least."""

    def __init__(self) -> None:
        self._count, self._wall = time.monotonic, time.time
        self._last, self._slept_s = self._count(), 0.0

    def begin(self) -> None:
        time.monotonic, time.time = self.count, self.wall

    def count(self) -> float:
        now = self._count()
        if now - self._last > self._GAP_S:
            self._slept_s += now - self._last
        self._last = now
        return now - self._slept_s

    def wall(self) -> float:
        return self._wall() + (365 * 24 * 3600.0 if self._slept_s else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ticket")
    parser.add_argument("index", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("out")
    parser.add_argument("--in-exchange", choices=("SIGKILL", "SIGSTOP"))
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--suspends", action="store_true", help="being stopped is a laptop's sleep")
    parser.add_argument("--nan-after", type=int, default=0)
    parser.add_argument("--nan-stays", action="store_true")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--tensors", type=int, default=1)
    parser.add_argument(OPTION, action="store_true", help="bulk goes over CURVE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.suspends:
        Suspended().begin()
    ways = (OPTION,) if args.over_curve else ()
    with carried(ways), open(args.out, "a", encoding="utf-8") as out:
        train(args, lambda what, **fields: write(out, what, fields))


def write(out: Any, what: str, fields: dict[str, Any]) -> None:
    # CLOCK_MONOTONIC is one clock for all processes of a machine.
    out.write(json.dumps({"event": what, "at": time.monotonic(), **fields}) + "\n")
    out.flush()


def train(args: argparse.Namespace, tell: Any) -> None:
    model = nn.Module()
    for number in range(args.tensors):
        name = f"values{number or ''}"
        model.register_parameter(name, nn.Parameter(torch.full((args.size,), float(args.index))))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def on_event(event: object) -> None:
        match event:
            case RoundOpened():
                tell("opened", attempt=event.attempt, members=len(event.members))
            case RoundCommitted():
                fragment = event.record.fragment
                moved = outer.replica.outer.outer_parameters(fragment)
                tell(
                    "committed",
                    index=event.record.index,
                    commit=event.record.hash().hex(),
                    members=len(event.record.members),
                    counted=event.number is not None,
                    state=outer.replica.digest(fragment).hex(),
                    value=float(moved[0]),
                    last=float(moved[-1]),
                )
            case ContributionEnded():
                tell("fate", fate=event.fate.value, reason=event.reason)
            case ProgressLost():
                tell("lost", tokens=event.tokens, in_a_row=event.in_a_row)
            case CheckpointRestored():
                tell("restored", index=event.index)
            case CoordinatorLost() | CoordinatorBack():
                tell(type(event).__name__, step=outer.step)

    def on_trace(trace: Trace) -> None:
        if isinstance(trace, InExchangeTrace):
            tell("fault")
            os.kill(os.getpid(), signal.Signals[args.in_exchange])
            tell("thawed")

    where, name = "tcp://127.0.0.1:0", f"w{args.index}"
    with diloco.join(
        f"@{args.ticket}", listen=where, name=name, state=args.state, on_trace=on_trace
    ) as swarm:
        if args.in_exchange:
            swarm.call(lambda now, node: trace_the_exchange(node, 3))
        outer = diloco.Outer(model, optimizer, swarm, 1, on_event)
        outer.enter(60.0)
        every = swarm.settings.method.resolved().sync_every
        tell("active", value=float(outer.replica.outer.outer_parameters(0)[0]))
        while not outer.finished:
            time.sleep(args.step_s)
            for each in model.parameters():
                each.grad = torch.full((args.size,), 4.0**args.index / every)
            if args.nan_after and outer.round >= args.nan_after:
                model.values.grad[0] = float("nan")
                args.nan_after *= args.nan_stays
                tell("nan")
            try:
                optimizer.step()
            except diloco.TrainingDiverged as error:
                tell("diverged", reason=str(error))
                return
        tell("end", step=outer.step, round=outer.round)


if __name__ == "__main__":
    main()
