"""A worker process whose contribution names it: worker i moves every element by 4**i per round.

    python vector_worker.py TICKET_FILE INDEX SIZE OUT.jsonl [--in-exchange SIGKILL|SIGSTOP]

Writes what it sees as JSON lines. With --in-exchange it kills or stops itself in the middle of one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from typing import Any

import torch
from torch import nn

import diloco
from peers.protocol.events import (
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    RoundCommitted,
    RoundOpened,
)

_FRAMES = 3
"""Nobody can have a whole result by then: it takes a part and a reduced part for each of two others."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ticket")
    parser.add_argument("index", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("out")
    parser.add_argument("--in-exchange", choices=("SIGKILL", "SIGSTOP"))
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--nan-after", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with open(args.out, "a", encoding="utf-8") as out:
        train(args, lambda what, **fields: write(out, what, fields))


def write(out: Any, what: str, fields: dict[str, Any]) -> None:
    # CLOCK_MONOTONIC is one clock for all processes of a machine.
    out.write(json.dumps({"event": what, "at": time.monotonic(), **fields}) + "\n")
    out.flush()


def train(args: argparse.Namespace, tell: Any) -> None:
    model = nn.Module()
    model.values = nn.Parameter(torch.full((args.size,), float(args.index)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def on_event(event: object) -> None:
        match event:
            case RoundOpened():
                tell("opened", attempt=event.attempt, members=len(event.members))
            case RoundCommitted():
                tell(
                    "committed",
                    index=event.record.index,
                    commit=event.record.hash().hex(),
                    members=len(event.record.members),
                    counted=event.number is not None,
                    state=outer.replica.digest(0).hex(),
                    value=float(outer.replica.outer.outer_parameters(0)[0]),
                    last=float(outer.replica.outer.outer_parameters(0)[-1]),
                )
            case ContributionEnded():
                tell("fate", fate=event.fate.value, reason=event.reason)
            case CoordinatorLost() | CoordinatorBack():
                tell(type(event).__name__, step=outer.step)

    with diloco.join(f"@{args.ticket}", listen="tcp://127.0.0.1:0", name=f"w{args.index}") as swarm:
        if args.in_exchange:
            fail_in_exchange(swarm._driver, signal.Signals[args.in_exchange], tell)
        outer = diloco.Outer(model, optimizer, swarm, 1, on_event)
        outer.enter(60.0)
        every = swarm.settings.method.resolved().sync_every
        tell("active", value=float(outer.replica.outer.outer_parameters(0)[0]))
        while not outer.finished:
            time.sleep(args.step_s)
            model.values.grad = torch.full((args.size,), 4.0**args.index / every)
            if args.nan_after and outer.round >= args.nan_after:
                model.values.grad[0], args.nan_after = float("nan"), 0
                tell("nan")
            optimizer.step()
        tell("end", step=outer.step, round=outer.round)


def fail_in_exchange(driver: Any, how: signal.Signals, tell: Any) -> None:
    """Signal ourselves after the first frames of the second in a row of rounds with all three, from the
    driver's thread: the training thread hears of a round when it may be over. By then each of the three was
    in the round before, so that what it contributes is four steps."""
    whole_rounds, frames_left = 0, -1
    on_event, send = driver._on_event, driver._send

    def see(event: object) -> None:
        nonlocal whole_rounds, frames_left
        if isinstance(event, RoundOpened):
            whole_rounds = whole_rounds + 1 if len(event.members) == 3 else 0
            if whole_rounds == 2:
                frames_left = _FRAMES
        on_event(event)

    def count(effect: object) -> None:
        nonlocal frames_left
        send(effect)
        frames_left -= 1
        if frames_left == 0:
            driver._on_event, driver._send = on_event, send
            tell("fault")
            os.kill(os.getpid(), how)
            tell("thawed")

    driver._on_event, driver._send = see, count


if __name__ == "__main__":
    main()
