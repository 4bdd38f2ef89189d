"""Ctrl-C and SIGTERM: the first leaves in order, the second and the end of the notice stop at once, and what
was ignored stays ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from diloco.cli.interrupts import leaving_in_order
from diloco.interrupts import EXIT_CODE, Interrupts


@pytest.fixture(autouse=True)
def _same_handlers_after() -> Iterator[None]:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_command_with_one_line_and_130(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, leaving_in_order() as interrupts:
        os.kill(os.getpid(), number)
    assert caught.value.code == EXIT_CODE == 130
    assert interrupts.requested
    assert capsys.readouterr().err == "diloco: interrupted, left the run\n"


def test_who_is_at_work_ends_in_order_and_nothing_is_raised() -> None:
    called: list[str] = []
    with leaving_in_order() as interrupts, interrupts.ending_with(lambda: called.append("in order")):
        os.kill(os.getpid(), signal.SIGINT)
        called.append("went on")
    assert called == ["in order", "went on"]


def test_after_the_work_a_signal_raises_again() -> None:
    interrupts = Interrupts()
    with interrupts.ending_with(lambda: None):
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(signal.SIGINT, None)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with leaving_in_order() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
        assert not interrupts.requested
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_signal_ends_the_process_at_once_whatever_it_does() -> None:
    program = """
import os, signal, sys
from diloco.cli.interrupts import leaving_in_order
with leaving_in_order() as interrupts, interrupts.ending_with(lambda: print("in order", flush=True)):
    interrupts.at_once = lambda: print("at once", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("never")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (130, "in order\nat once\n")


def test_when_the_notice_ends_the_process_does_whatever_it_waits_for() -> None:
    program = """
import os, signal, threading
from diloco.interrupts import handled
with handled(notice_s=0.2) as interrupts, interrupts.ending_with(lambda: print("in order", flush=True)):
    interrupts.at_once = lambda: print("at once", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (130, "in order\nat once\n")
    assert done.stderr == "diloco: the notice of 0.2 s is over: ended at once, with what was saved before\n"


def test_ctrl_c_has_no_notice_as_whoever_waits_can_press_it_again() -> None:
    before = threading.active_count()
    with leaving_in_order() as interrupts, interrupts.ending_with(lambda: None):
        os.kill(os.getpid(), signal.SIGINT)
        assert threading.active_count() == before
    assert interrupts.requested is signal.SIGINT
