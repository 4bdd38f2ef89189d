"""Where a host computes a disputed step once more: a thread of its own, with torch if that is installed.

Shell code. Which steps, and what follows, is decided in `peers.coordinator.recomputing`, one at a time; the
arithmetic is `diloco.outer.recomputation`'s, which is imported when the first step is due, so that a host
that never has a dispute needs neither the time nor the memory. Neither the network's thread nor training
waits.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diloco.methods.registry import make
from diloco.methods.spec import Method
from peers.node import Node
from peers.protocol.events import Computed, RecomputeWanted
from transport.errors import DriverStopped
from transport.sockets.driver import SocketDriver

_SHARE = 4
"""A state may have a quarter of the memory: beside it lie the result and its mean, and torch."""
_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class _Row:
    """Where the class is that computes steps."""

    made_by: str = "diloco.outer.recomputation:TensorRecomputer"
    options: tuple[str, ...] = ("method",)


def recompute_bytes(method: Method) -> int:
    """Most bytes of a fragment's state of which this process can compute a step; 0 if it cannot at all."""
    if method.gossips or importlib.util.find_spec("torch") is None:
        return 0
    return memory_bytes() // _SHARE


def memory_bytes(limit_files: tuple[str, ...] = _LIMIT_FILES) -> int:
    """What this process may use: the machine's memory, or what its container is limited to. 0 where the
    system has no way to ask (Windows): then it computes no step but its own."""
    if not hasattr(os, "sysconf"):
        return 0
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in limit_files:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found = min(found, int(text))
    return found


class RecomputeThreads:
    """Takes what a node tells, and passes on all but the steps that are wanted: each gets a thread."""

    def __init__(self, node: Node, method: Method | None, pass_on: Callable[[object], None]) -> None:
        self.driver: SocketDriver | None = None
        """Set before the first event: it brings the answers to the node."""
        self._node = node
        self._method = method
        self._pass_on = pass_on
        self._recomputer: Any = None

    def hear(self, event: object) -> None:
        """One event, on the driver's thread."""
        if isinstance(event, RecomputeWanted):
            threading.Thread(target=self._run, args=(event,), name="diloco-recompute", daemon=True).start()
        else:
            self._pass_on(event)

    def _run(self, wanted: RecomputeWanted) -> None:
        try:
            self._answer(wanted.version, self._computed(wanted), "")
        except Exception as error:  # the run waits for an answer, whatever went wrong here
            self._answer(wanted.version, None, f"{type(error).__name__}: {error}")

    def _answer(self, version: bytes, found: Computed | None, reason: str) -> None:
        driver, coordinator = self.driver, self._node.coordinator
        assert coordinator is not None, "a host computes"
        assert driver is not None, "it was set before the first event"
        with suppress(DriverStopped):  # this process has left the run
            driver.call(lambda _, now: coordinator.recomputer.take_answer(version, found, reason))

    def _computed(self, wanted: RecomputeWanted) -> Computed:
        if self._recomputer is None:
            self._recomputer = make(_Row(), method=self._method)
        found = self._recomputer.computed(
            wanted.layout.decode(),
            wanted.fragment,
            wanted.former,
            wanted.result,
            wanted.chunk_elements,
            wanted.num_parts,
        )
        return Computed(*found)
