"""One thread that writes checkpoints at leisure: one at a time, with a small share of one processor.

Shell code: what is written is decided before (`keeper`), and how is `store`'s affair.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
SHARE = 0.05
"""Of one processor's time."""
_LESS_URGENT = 10
"""Above an ordinary thread's niceness, where the system has one for each thread."""


class Writer(Generic[T]):
    """Runs jobs that give a ``T``. All but the jobs themselves happen on the thread that makes it."""

    def __init__(self, share: float = SHARE) -> None:
        self._idle_per_busy = (1.0 - share) / share
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._outcome: T | Exception | None = None
        self.cpu_s = 0.0
        """Seconds of a processor that all jobs together took."""

    @property
    def is_busy(self) -> bool:
        """A job was begun, and its outcome was not taken yet."""
        return self._thread is not None

    def begin(self, job: Callable[[Callable[[], None]], T]) -> None:
        """Run ``job`` beside the training; it is given a function to call after each piece of work."""
        assert self._thread is None, "one at a time"
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(job,), name="diloco-checkpoint", daemon=True)
        self._thread.start()

    def take(self) -> T | Exception | None:
        """What became of the job, once; None as long as it runs or if there is none."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        return self._outcome

    def finish(self) -> T | Exception | None:
        """Wait for the job, which is at leisure no more; see `take`."""
        self._hurry.set()
        if self._thread is not None:
            self._thread.join()
        self._hurry.clear()
        return self.take()

    def _run(self, job: Callable[[Callable[[], None]], T]) -> None:
        with suppress(AttributeError, OSError):  # a system that knows no niceness of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LESS_URGENT)
        rested_at = began = time.thread_time()

        def pause() -> None:
            nonlocal rested_at
            now = time.thread_time()
            self._hurry.wait((now - rested_at) * self._idle_per_busy)
            rested_at = now

        try:
            self._outcome = job(pause)
        except Exception as error:  # told by the thread that trains, for which it is a checkpoint less
            self._outcome = error
        self.cpu_s += time.thread_time() - began
