"""One process has a state directory: the second is told which, and the hold ends with the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diloco.errors import UserError
from diloco.swarm.state_lock import StateLock


def test_a_hold_on_a_state_directory_ends_with_its_process(tmp_path: Path) -> None:
    """Also when the process is killed: nothing is to be cleared up by hand."""
    script = "import sys, time; from pathlib import Path; from diloco.swarm.state_lock import StateLock; "
    script += "lock = StateLock(Path(sys.argv[1]), 'host'); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by the host with process {other.pid} on .*--state"):
            StateLock(tmp_path, "worker")
        other.kill()
    lock = StateLock(tmp_path, "worker")
    lock.release()
    lock.release()  # once more changes nothing
    StateLock(tmp_path, "worker").release()


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked"):
        StateLock(tmp_path, "worker")
