"""One worker of chaos_swarm.py: it contributes what the oracle can recompute, and writes what it sees.

The fork server has imported torch, so that a worker starts at once. Lines are JSON, appended to a file of its
own in one write each, so that a killed process leaves whole ones.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from in_exchange import InExchangeTrace, trace_the_exchange
from torch import nn

import diloco
from peers.protocol.events import (
    BecameActive,
    CheckpointWritten,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    FellBehind,
    Restored,
    RoundCommitted,
)
from transport.effects import Trace
from transport.errors import KnockTimeout


@dataclass(frozen=True, slots=True)
class Part:
    """What a worker is told."""

    folder: str
    """Where it writes, and where homes of workers lie."""
    ticket: str
    name: str
    column: int
    columns: int
    elements: int
    """Of the vector, a multiple of ``columns``."""
    step_s: float
    listen: str
    advertise: str
    parent: int
    """The process without which it ends."""
    stops_in_exchange: bool = False
    """Whether it stops itself in the middle of one, for good."""


def work(part: Part) -> None:
    """Train until the run or the parent ends."""
    torch.set_num_threads(1)
    log = os.open(f"{part.folder}/{part.name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for each in (1, 2):
        os.dup2(log, each)
    threading.Thread(target=_end_with, args=(part.parent,), daemon=True).start()
    told = os.open(f"{part.folder}/{part.name}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    life = time.monotonic_ns()
    key = ""

    untold = b""

    def tell(what: str, **fields: Any) -> None:
        nonlocal untold
        line = {"event": what, "at": time.monotonic(), "name": part.name, "key": key, "life": life, **fields}
        untold += (json.dumps(line) + "\n").encode()
        with suppress(OSError):  # while the disk is full it waits
            untold = untold[os.write(told, untold) :]

    while True:
        try:
            swarm = diloco.join(
                part.ticket,
                listen=part.listen,
                advertise=part.advertise,
                name=part.name,
                state=Path(part.folder) / part.name,
                on_trace=_stop_at,
            )
            break
        except KnockTimeout:
            pass  # the host is away, or the line to it is cut
    try:
        with swarm:
            key = swarm.peer_name.rpartition("-")[2]
            tell("life", column=part.column)
            if part.stops_in_exchange:
                swarm.call(lambda _, node: trace_the_exchange(node, part.columns))
            _train(part, swarm, tell)
    except diloco.DilocoError as error:
        tell("failed", reason=f"{type(error).__name__}: {error}")
        raise


def _train(part: Part, swarm: diloco.Swarm, tell: Any) -> None:
    model = nn.Module()
    # A number of its own: what it holds before it has the swarm's state is nobody else's.
    model.values = nn.Parameter(torch.full((part.elements,), part.column + 1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = torch.zeros(part.elements // part.columns, part.columns)
    step[:, part.column] = 1.0
    step = step.flatten()

    def state() -> dict[str, Any]:
        values = outer.replica.outer.outer_parameters(0).view(-1, part.columns)
        even = bool((values == values[0]).all())
        return {"state": outer.replica.digest(0).hex(), "values": values[0].tolist(), "even": even}

    def on_event(event: object) -> None:
        match event:
            case BecameActive():
                tell("active", index=event.index, head=event.head.hex(), **state())
            case RoundCommitted():
                record = event.record
                tell(
                    "committed",
                    index=record.index,
                    head=record.hash().hex(),
                    members=len(record.members),
                    number=event.number,
                    **state(),
                )
            case ContributionEnded():
                fate = event.fate.value
                tell("fate", number=event.number, fate=fate, tokens=event.tokens, reason=event.reason)
            case CheckpointWritten():
                tell("saved", index=event.index)
            case FellBehind() | Restored() | CoordinatorLost() | CoordinatorBack():
                tell(type(event).__name__)

    outer = diloco.Outer(model, optimizer, swarm, 1, on_event)
    outer.enter(3600.0)
    with outer.notice():
        while not outer.finished:
            time.sleep(part.step_s)
            model.values.grad = step
            optimizer.step()


def _stop_at(trace: Trace) -> None:
    if isinstance(trace, InExchangeTrace):
        os.kill(os.getpid(), signal.SIGSTOP)


def _end_with(parent: int) -> None:
    """Wherever the worker waits then."""
    while Path(f"/proc/{parent}").exists():
        time.sleep(1.0)
    os._exit(1)
