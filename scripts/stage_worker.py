"""One process of kill_stages.py: a replica of a stage that computes by waiting, and tells what it does.

What `diloco join` has around a stage is here too; the part itself is one matrix and two pauses, so that two
cores are enough for many replicas. Every command that the training thread gives its member, and what it hears
of microbatches and offers, is a line of JSON in a file of the process's own: written before the command is
given, in one write, so that a killed process leaves whole lines and nobody can know more than they say. It
may kill itself around a command.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from emulate_link import free_port, running_link
from link_options import LinkSpec
from torch import Tensor, nn
from truth_worker import dial_through

import diloco
from diloco.checkpoints.moved import set_aside
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.staging import part_of
from peers.protocol.commands import Offer, TakeBack
from peers.protocol.events import BecameActive, ContributionEnded, RoundCommitted
from peers.protocol.stage_work import (
    Counted,
    Feed,
    ForwardBegan,
    ForwardDone,
    GivenUp,
    MicrobatchEnded,
    MicrobatchId,
    Stepped,
    StreamOpened,
)
from transport.sockets import aes_hardware

TOLD = (Feed, ForwardBegan, ForwardDone, Counted, Stepped, Offer, TakeBack)
ROWS, WIDTH = 8, 16


@dataclass(frozen=True, slots=True)
class Replica:
    """What a process is told."""

    folder: str
    ticket: str
    name: str
    parent: int
    """The process without which it ends."""
    forward_s: float
    backward_s: float
    wish: int | None = None
    keeps: bool = False
    """Whether it has a folder of its own, from which a later process goes on."""
    rows: int = ROWS
    """Of a boundary, of `WIDTH` columns."""
    rate_bps: float = 0.0
    """Of its own emulated access line, each way; 0 for none."""
    rtt_s: float = 0.0
    """That its line adds to a round trip."""
    moves: bool = False
    """Whether the host may move it to another stage; it has a folder of its own then, and no wish."""


class Pause(torch.autograd.Function):
    """Takes time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_s: float, backward_s: float) -> Tensor:  # type: ignore[override]
        """Waits; the same values."""
        ctx.backward_s = backward_s
        time.sleep(forward_s)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Waits likewise."""
        time.sleep(ctx.backward_s)
        return gradients[0].clone(), None, None


class Layer(nn.Module):
    """One matrix, and the time that a large part would take."""

    def __init__(self, width: int, forward_s: float, backward_s: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))
        self._pauses = forward_s, backward_s

    def forward(self, x: Tensor) -> Tensor:
        """As many rows and columns."""
        passed: Tensor = Pause.apply(x @ self.weight, *self._pauses)
        return passed


def loss_sum(output: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Cross entropy."""
    flat = output.flatten(0, -2)
    return nn.functional.cross_entropy(flat, targets.flatten(), reduction="sum"), targets.numel()


def batches(rows: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless, the same input each time: what is learned is no matter here."""
    x, targets = torch.ones(1, rows, width), torch.zeros(1, rows, dtype=torch.long)
    while True:
        yield x, targets


class Told:
    """Lines of one process, and its end around a command where the file ``die`` says so."""

    def __init__(self, replica: Replica, moves: int = 0) -> None:
        """A file for each stage that it has been in: after so many ``moves``."""
        name = f"{replica.name}.{moves}.jsonl" if moves else f"{replica.name}.jsonl"
        self._file = os.open(f"{replica.folder}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._doom = Path(f"{replica.folder}/{replica.name}.die")
        self._fixed: dict[str, Any] = {"name": replica.name, "life": time.monotonic_ns()}

    def know(self, **fixed: Any) -> None:
        """Of every line from here on."""
        self._fixed.update(fixed)

    def __call__(self, what: str, **fields: Any) -> None:
        line = {"what": what, "at": round(time.monotonic(), 4), **self._fixed, **fields}
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def around(self, when: str, command: str) -> None:
        """Die here, if this is the moment that is named: "after Counted 0.003" is so many seconds after."""
        if not self._doom.exists():
            return
        named, wanted, *late = self._doom.read_text().split()
        if (named, wanted) == (when, command):
            time.sleep(float(late[0]) if late else 0.0)
            os.kill(os.getpid(), signal.SIGKILL)


def watch(swarm: diloco.Swarm, told: Told) -> None:
    """From here on the commands and events of this swarm are told."""
    command, post, next_event = swarm.command, swarm.post, swarm.next_event

    def begin(what: Any) -> str:
        kind = type(what).__name__
        told.around("before", kind)
        if isinstance(what, TOLD):
            told(kind, **fields_of(what))
        return kind

    def begin_only(what: Any) -> None:
        kind = begin(what)
        post(what)
        told.around("after", kind)

    def do(what: Any) -> bool:
        kind = begin(what)
        taken = command(what)
        if isinstance(what, Offer | TakeBack | Feed):
            told(f"{kind}Taken" if taken else f"{kind}Refused")
        told.around("after", kind)
        return taken

    def hear(timeout_s: float) -> object | None:
        event = next_event(timeout_s)
        if event is not None and (fields := heard(event)) is not None:
            told(type(event).__name__, **fields)
        return event

    swarm.command, swarm.post, swarm.next_event = do, begin_only, hear  # type: ignore[method-assign]


def fields_of(command: Any) -> dict[str, Any]:
    """What is told of a command."""
    match command:
        case Feed():
            return {"number": command.number}
        case Stepped():
            return {"of": [named(each) for each in command.microbatches], "tokens": command.tokens}
        case Counted():
            return {"of": named(command.microbatch), "tokens": command.tokens}
        case Offer():
            return {"tokens": command.tokens, "weight": command.weight}
        case TakeBack():
            return {}
    return {"of": named(command.microbatch)}


def heard(event: object) -> dict[str, Any] | None:
    """What is told of an event; None if nothing is."""
    match event:
        case MicrobatchEnded():
            how, cause = event.how.name.lower(), event.cause.name.lower()
            return {"of": named(event.microbatch), "how": how, "stage_of": event.stage, "cause": cause}
        case GivenUp():
            return {"of": named(event.microbatch)}
        case StreamOpened():
            return {"membership": event.membership, "void": event.void}
        case ContributionEnded():
            return {"number": event.number, "fate": event.fate.value, "tokens": event.tokens}
        case RoundCommitted():
            return {"index": event.record.index, "number": event.number, "weight": event.weight}
        case BecameActive():
            return {"index": event.index}
    return None


def named(microbatch: MicrobatchId) -> str:
    """A microbatch, in a word."""
    return f"{microbatch.feeder.hex()[:12]}/{microbatch.incarnation}/{microbatch.number}"


def work(replica: Replica) -> None:
    """Train until the run or the parent ends; SIGTERM lets it leave in order."""
    torch.set_num_threads(1)
    log = os.open(f"{replica.folder}/{replica.name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for each in (1, 2):
        os.dup2(log, each)
    threading.Thread(target=_end_with, args=(replica.parent,), daemon=True).start()
    moves = 0
    while train(replica, Told(replica, moves)):
        moves += 1


def train(replica: Replica, told: Told) -> bool:
    """In one stage; whether it is to join anew with another one."""
    told("begins")
    home = Path(replica.folder) / replica.name if replica.keeps or replica.moves else None
    with (
        line_of(replica) as (listen, advertise),
        diloco.join(
            replica.ticket, listen=listen, advertise=advertise, name=replica.name, state=home
        ) as swarm,
    ):
        told.know(key=swarm.key.hex())
        watch(swarm, told)
        settings = swarm.settings
        part = part_of(settings, swarm.ask_stage(replica.wish, timeout_s=300.0, moves=replica.moves))
        if replica.moves and home is not None:
            set_aside(home, swarm.run, part.stage)
        told.know(stage=part.stage)
        told("given")
        model = nn.Sequential(Layer(WIDTH, replica.forward_s, replica.backward_s))
        made = diloco.stage(
            model,
            torch.optim.SGD(model.parameters(), lr=0.01),
            swarm,
            part=part,
            boundary=part.ends(Boundary((1, replica.rows, WIDTH))),
            loss=loss_sum if part.is_last else None,
            timeout_s=3600.0,
        )
        told("active")
        signal.signal(signal.SIGTERM, lambda *_: made.outer.stop())
        for _ in made.run(batches(replica.rows, WIDTH) if part.is_first else None):
            pass
        told("ends")
        return made.moves_to is not None


@contextmanager
def line_of(replica: Replica) -> Iterator[tuple[str, str | None]]:
    """Where it listens, and where others find it: at the far end of its line, if it has one."""
    if not replica.rate_bps:
        yield "tcp://127.0.0.1:0", None
        return
    # Bulk is dialled at the machine where control was reached, which no chain of two links stands for here.
    aes_hardware.says_aes = lambda cpuinfo: False
    port = free_port()
    with running_link(LinkSpec(replica.rate_bps, replica.rtt_s, 1_250_000)) as link:
        far = link.map(("127.0.0.1", 0), ("127.0.0.1", port), back=True)
        dial_through(link)
        yield f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{far[1]}"


def _end_with(parent: int) -> None:
    """Wherever the replica waits then."""
    while Path(f"/proc/{parent}").exists():
        time.sleep(1.0)
    os._exit(1)
