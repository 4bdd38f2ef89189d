"""One process of bench_death.py: a worker that trains a vector, tells of commits, and may kill itself.

The fork server has imported what a worker needs, so that one starts at once. Times are of CLOCK_MONOTONIC,
which is one clock for all processes of a machine.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from in_exchange import InExchangeTrace, trace_the_exchange
from torch import nn
from torch.utils.data import DataLoader

import diloco
from peers.node import Node
from peers.protocol.events import RoundCommitted, RoundOpened
from peers.protocol.messages import CaughtUp
from transport.effects import Trace

torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # imports for a second; so does the next name
Outer = diloco.Outer
MEMBERS = 3
_ROUNDS = 2
"""The second round with everyone is the one to be silent in."""
_DRIP_S = 8.0
"""Between two frames of one that drips: less than the failure timeout."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a worker is told."""

    folder: str
    """Where its identity lies, and the file in which all tell what happens."""
    ticket: str
    name: str
    parameters: int
    step_s: float = 0.01
    listens: bool = True
    dies: str = ""
    """When: "exchange", "joining", or never. "mute" lives on and holds bulk back, "drip" lets a frame of it
    go now and then."""
    loaders: int = 0
    """Forked workers of a DataLoader that it has meanwhile, which are there before the exchange begins."""


class Numbers(torch.utils.data.Dataset[int]):
    """A data set of numbers."""

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> int:
        return index


def work(role: Role) -> None:
    """Train until the run ends, and tell what happens as lines of name, what, when, members."""
    torch.set_num_threads(1)
    model = nn.Module()
    model.values = nn.Parameter(torch.zeros(role.parameters))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell = Tell(role.folder, role.name)
    all_committed = threading.Event()

    def on_event(event: object) -> None:
        if isinstance(event, RoundCommitted):
            tell("committed", len(event.record.members))
            if len(event.record.members) == MEMBERS:
                all_committed.set()

    listen = "tcp://127.0.0.1:0" if role.listens else None
    home = Path(role.folder) / role.name

    def on_trace(trace: Trace) -> None:
        tell.trace(trace)
        if isinstance(trace, InExchangeTrace):
            die(tell)

    with diloco.join(role.ticket, listen=listen, name=role.name, state=home, on_trace=on_trace) as swarm:
        if role.dies == "exchange":
            arm = partial(swarm.call, lambda now, node: trace_the_exchange(node, MEMBERS))
        else:
            arm = partial(swarm.call, lambda now, node: Fate(node, role.dies, tell).arm(swarm))
        if role.dies == "joining":
            arm()
        outer = Outer(model, optimizer, swarm, 1, on_event)
        outer.enter(120.0)
        tell(f"active {swarm.peer_name}")
        numbers: Iterator[Any] = repeat(0)
        is_armed = role.dies in ("", "joining")
        while not outer.finished:
            if not is_armed and all_committed.is_set():
                # Every connection is up: a child that is forked now has a copy of each.
                numbers = loaded(role.loaders) if role.loaders else numbers
                arm()
                is_armed = True
            next(numbers)
            time.sleep(role.step_s)
            model.values.grad = torch.full((role.parameters,), 1e-3)
            optimizer.step()


def loaded(num_workers: int) -> Iterator[Any]:
    """Numbers that forked processes load; all of these are there."""
    loader = DataLoader(Numbers(), num_workers=num_workers, multiprocessing_context="fork")
    numbers = iter(loader)
    next(numbers)
    return numbers


class Tell:
    """Appends what happens to a file that all processes of a benchmark share."""

    def __init__(self, folder: str, name: str) -> None:
        self._told = os.open(f"{folder}/told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._name = name

    def __call__(self, what: str, members: int = 0) -> None:
        os.write(self._told, f"{self._name},{what},{time.monotonic()},{members}\n".encode())

    def trace(self, trace: Trace) -> None:
        """For the story of a death that took long; nothing that is measured depends on it."""
        if trace.name not in ("report", "lane_refused", "stranger_refused"):
            peer = getattr(trace, "peer", b"")
            peer = peer.hex() if isinstance(peer, bytes) else peer
            self(f"trace {trace.name} {peer[:6]}", len(getattr(trace, "members", ())))


def die(tell: Tell) -> None:
    """At once, as nobody expects."""
    tell("fault")
    os.kill(os.getpid(), signal.SIGKILL)


class Fate:
    """What becomes of a worker outside the middle of an exchange, on its network thread."""

    def __init__(self, node: Node, when: str, tell: Tell) -> None:
        self._node, self._when, self._tell = node, when, tell
        self._rounds_left = _ROUNDS
        self._held: list[Any] = []
        self._send_bulk, self._send, self._deliver = node.send_bulk, node.send, node.deliver

    def arm(self, swarm: Any) -> None:
        """From here on the node tells this object what it does."""
        node: Any = self._node
        node.send_bulk, node.send, node.deliver = self.send_bulk, self.send, self.deliver
        if self._when == "drip":
            threading.Thread(target=self._drip, args=(swarm,), daemon=True).start()

    def send_bulk(self, now: float, *what: Any, **named: Any) -> None:
        if self._rounds_left > 0 or self._when == "joining":
            self._send_bulk(now, *what, **named)
        else:
            self._held.append((what, named))

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self._send(now, peer, message)
        if self._when == "joining" and isinstance(message, CaughtUp):
            die(self._tell)

    def deliver(self, event: object) -> None:
        self._deliver(event)
        if isinstance(event, RoundOpened):
            self._rounds_left -= len(event.members) == MEMBERS
            if self._rounds_left == 0 and self._when in ("mute", "drip"):
                self._tell("fault")

    def _drip(self, swarm: Any) -> None:
        with suppress(diloco.SwarmClosed):
            while True:
                time.sleep(_DRIP_S)
                swarm.call(lambda now, node: self._let_one_through(now))

    def _let_one_through(self, now: float) -> None:
        if self._held:
            what, named = self._held.pop(0)
            self._send_bulk(now, *what, **named)
            self._tell("drip")
