"""The writer's thread: one job at a time, at leisure until it is waited for, and no failure that is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from diloco.checkpoints.writer import Writer


def test_what_a_job_gives_is_taken_once() -> None:
    writer: Writer[int] = Writer()
    writer.begin(lambda pause: 7)
    assert writer.is_busy
    assert writer.finish() == 7
    assert not writer.is_busy
    assert writer.take() is None


def test_a_job_runs_beside_the_thread_that_began_it() -> None:
    writer: Writer[int] = Writer()
    go_on = threading.Event()

    def job(pause: Callable[[], None]) -> int:
        assert go_on.wait(20.0)
        return threading.get_ident()

    writer.begin(job)
    assert writer.take() is None
    go_on.set()
    assert writer.finish() not in (None, threading.get_ident())


def test_a_second_job_beside_the_first_is_refused() -> None:
    writer: Writer[int] = Writer()
    writer.begin(lambda pause: 1)
    with pytest.raises(AssertionError, match="one at a time"):
        writer.begin(lambda pause: 2)
    writer.finish()
    writer.begin(lambda pause: 2)
    assert writer.finish() == 2


def test_an_error_of_a_job_is_handed_over_and_ends_nothing() -> None:
    def job(pause: Callable[[], None]) -> int:
        raise OSError("no space left")

    writer: Writer[int] = Writer()
    writer.begin(job)
    error = writer.finish()
    assert isinstance(error, OSError)
    assert str(error) == "no space left"


def test_a_job_at_leisure_ends_at_once_when_it_is_waited_for() -> None:
    """With so small a share it would rest for hours."""
    writer: Writer[int] = Writer(share=1e-9)
    at_work = threading.Event()

    def job(pause: Callable[[], None]) -> int:
        total = 0
        for _ in range(3):
            total += sum(range(20_000))
            at_work.set()
            pause()
        return total

    writer.begin(job)
    assert at_work.wait(20.0)
    assert writer.take() is None
    assert writer.finish() == 3 * sum(range(20_000))
    assert writer.cpu_s > 0
