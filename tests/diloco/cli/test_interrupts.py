"""A command that was interrupted ends with 130, whatever comes while the interpreter ends."""

from __future__ import annotations

import subprocess
import sys

ENDING = """
import atexit, os, signal
from diloco.cli import app
from diloco.cli.interrupts import leaving_in_order

def again():
    os.kill(os.getpid(), signal.SIGINT)

class Late:
    def __del__(self, again=again):
        again()
        print("went on", flush=True)

def command(arguments, standalone_mode):
    with leaving_in_order():
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
