"""A worker's threads that hash states: what is wanted is named, and all else is passed on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from diloco.swarm.naming import NamingThreads
from peers.protocol.commands import ConfirmNamed
from peers.protocol.events import NameWanted, RunFinished
from peers.protocol.record import NO_DIGEST
from transport.errors import DriverStopped

CHECK, NAME = b"c" * 16, b"n" * 32


class Worker:
    """A node and its driver, whose calls are carried out at once; its application holds one state."""

    def __init__(self, *, runs: bool = True) -> None:
        self.named: queue.SimpleQueue[tuple[object, threading.Thread]] = queue.SimpleQueue()
        self.member = SimpleNamespace(to_name=self.to_name)
        self.runs = runs
        self.asked = threading.Event()

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        return (lambda: NAME) if check == CHECK else None

    def command(self, now: float, command: object) -> None:
        self.named.put((command, threading.current_thread()))

    def call(self, run: Any) -> None:
        self.asked.set()
        if not self.runs:
            raise DriverStopped("the transport is not running")
        run(None, 0.0)


def thread_of(worker: Worker, passed: list[object]) -> NamingThreads:
    found = NamingThreads(worker, passed.append)  # type: ignore[arg-type]
    found.driver = worker  # type: ignore[assignment]
    return found


def test_states_are_hashed_by_other_threads_and_everything_else_is_passed_on() -> None:
    worker, passed = Worker(), list[object]()
    naming = thread_of(worker, passed)
    naming.hear(RunFinished(3))
    naming.hear(NameWanted(0, CHECK))
    first, one = worker.named.get(timeout=60.0)
    naming.hear(NameWanted(1, b"x" * 16))
    second, other = worker.named.get(timeout=60.0)
    assert (first, second) == (ConfirmNamed(0, CHECK, NAME), ConfirmNamed(1, b"x" * 16, NO_DIGEST))
    assert threading.current_thread() not in (one, other)
    assert passed == [RunFinished(3)]


def test_a_digest_that_is_found_when_the_process_has_left_the_run_is_no_error() -> None:
    worker, failed = Worker(runs=False), list[object]()
    before, threading.excepthook = threading.excepthook, failed.append
    try:
        naming = thread_of(worker, [])
        naming.hear(NameWanted(0, CHECK))
        assert worker.asked.wait(60.0)
        worker.asked.clear()
        naming.hear(NameWanted(0, CHECK))
        assert worker.asked.wait(60.0), "it goes on"
    finally:
        threading.excepthook = before
    assert failed == []
