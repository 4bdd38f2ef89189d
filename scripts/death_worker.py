"""One process of bench_death.py: a worker that trains a vector, tells of commits, and may kill itself.

The fork server has imported torch, so that a worker starts at once. Times are of CLOCK_MONOTONIC, which is
one clock for all processes of a machine.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import diloco
from peers.node import Node
from peers.protocol.events import RoundCommitted, RoundOpened
from peers.protocol.messages import CaughtUp

MEMBERS = 3
_ROUNDS = 2
"""The second round in a row with everyone is the one to die in."""
_FRAMES = 3
"""Frames of bulk that leave before that. Nobody can have a whole result by then."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a worker is told."""

    folder: str
    """Where its identity lies, and the file in which all tell what happens."""
    ticket: str
    name: str
    parameters: int
    listens: bool = True
    dies: str = ""
    """When: "exchange", "joining", or never. "mute" goes on living and sends no bulk."""
    loaders: int = 0
    """Forked workers of a DataLoader that it has meanwhile."""


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

    told = os.open(f"{role.folder}/told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(what: str, members: int = 0) -> None:
        os.write(told, f"{role.name},{what},{time.monotonic()},{members}\n".encode())

    def on_event(event: object) -> None:
        if isinstance(event, RoundCommitted):
            tell("committed", len(event.record.members))

    listen = "tcp://127.0.0.1:0" if role.listens else None
    home = Path(role.folder) / role.name
    with diloco.join(role.ticket, listen=listen, name=role.name, state=home) as swarm:
        if role.dies:
            swarm.call(lambda now, node: Fate(node, role.dies, tell).arm())
        outer = diloco.Outer(model, optimizer, swarm, 1, on_event)
        loader = DataLoader(Numbers(), num_workers=role.loaders)
        numbers = iter(loader)
        next(numbers)
        outer.enter(120.0)
        tell("active")
        while not outer.finished:
            time.sleep(0.01)
            model.values.grad = torch.full((role.parameters,), 1e-3)
            optimizer.step()


class Fate:
    """What becomes of a worker, on its network thread."""

    def __init__(self, node: Node, when: str, tell: Any) -> None:
        self._node, self._when, self._tell = node, when, tell
        self._rounds_left, self._frames_left = _ROUNDS, _FRAMES
        self._send_bulk, self._send, self._deliver = node.send_bulk, node.send, node.deliver

    def arm(self) -> None:
        """From here on the node tells this object what it does."""
        node: Any = self._node
        node.send_bulk, node.send, node.deliver = self.send_bulk, self.send, self.deliver

    def send_bulk(self, *args: Any, **named: Any) -> None:
        if self._rounds_left > 0 or self._when == "joining":
            self._send_bulk(*args, **named)
        elif self._when == "exchange":
            self._frames_left -= 1
            self._send_bulk(*args, **named)
            if self._frames_left == 0:
                self._die()

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self._send(now, peer, message)
        if self._when == "joining" and isinstance(message, CaughtUp):
            self._die()

    def deliver(self, event: object) -> None:
        self._deliver(event)
        if isinstance(event, RoundOpened):
            self._rounds_left -= len(event.members) == MEMBERS
            if self._rounds_left == 0 and self._when == "mute":
                self._tell("fault")

    def _die(self) -> None:
        self._tell("fault")
        os.kill(os.getpid(), signal.SIGKILL)
