"""Ctrl-C: the first leaves in order, the second stops at once, and what was ignored stays ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from diloco.cli.interrupts import EXIT_CODE, Interrupts, interruptible


@pytest.fixture(autouse=True)
def _same_handlers_after() -> Iterator[None]:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_command_with_one_line_and_130(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, interruptible() as interrupts:
        os.kill(os.getpid(), number)
    assert caught.value.code == EXIT_CODE == 130
    assert interrupts.requested
    assert capsys.readouterr().err == "diloco: interrupted, left the run\n"


def test_who_is_at_work_ends_in_order_and_nothing_is_raised() -> None:
    called: list[str] = []
    with interruptible() as interrupts, interrupts.ending_with(lambda: called.append("in order")):
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
        with interruptible() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
        assert not interrupts.requested
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_signal_ends_the_process_at_once_whatever_it_does() -> None:
    program = """
import os, signal, sys
from diloco.cli.interrupts import interruptible
with interruptible() as interrupts, interrupts.ending_with(lambda: print("in order", flush=True)):
    interrupts.at_once = lambda: print("at once", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("never")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (130, "in order\nat once\n")


ENDING = """
import atexit, os, signal
from diloco.cli import app
from diloco.cli.interrupts import interruptible

def again():
    os.kill(os.getpid(), signal.SIGINT)

class Late:
    def __del__(self, again=again):
        again()
        print("went on", flush=True)

def command():
    with interruptible():
        again()

app.app = command
"""


def test_a_second_signal_in_the_interpreters_last_calls_ends_the_process_with_130() -> None:
    program = ENDING + "atexit.register(print, 'never'); atexit.register(again); app.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "diloco: interrupted, left the run\n"


def test_a_second_signal_while_the_interpreter_takes_itself_down_leaves_the_130() -> None:
    program = ENDING + "app.late = Late(); app.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (130, "went on\n")
