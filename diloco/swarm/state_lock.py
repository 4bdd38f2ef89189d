"""Who has a state directory: one process at a time, a host or a worker.

Shell code: of two processes the second is refused, since both would write the same files and speak under one
identity. The hold ends with its process, however that ends.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from diloco.errors import StateInUse, UserError
from diloco.swarm.state_dir import make_home

LOCK_FILES = ("state.lock", "state.process")


class StateLock:
    """A process's hold on its state directory."""

    def __init__(self, home: Path, who: str) -> None:
        """Take it for ``who`` (host, or worker). Raises `StateInUse`, which names the process that has it,
        and `UserError` for a folder that cannot be used."""
        make_home(home)
        # Whoever closes the swarm may be on another thread than whoever made it.
        self._lock = FileLock(home / LOCK_FILES[0], mode=0o600, thread_local=False)
        self._process = home / LOCK_FILES[1]
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._holder()
            ours = holder.startswith(f"{who} with process {os.getpid()} on {socket.gethostname()}")
            raise StateInUse(
                f"state folder {home} is in use by the {holder}",
                "that is this process (an earlier cell of a notebook?): go on with that swarm, call its"
                " close() first, or name another folder (--state)"
                if ours
                else "end that one first, or name another folder (--state)",
            ) from None
        except OSError as error:
            raise UserError(f"state folder {home} cannot be locked: {error.strerror}") from None
        try:
            self._process.write_text(f"{who} with process {os.getpid()} on {socket.gethostname()}\n")
        except OSError as error:
            self._lock.release()
            raise UserError(f"{self._process} cannot be written: {error.strerror}") from None

    def _holder(self) -> str:
        # The other one writes its name right after it has the lock.
        with suppress(OSError):
            if found := self._process.read_text(errors="replace").strip()[:100]:
                return found
        return "process that starts at this moment"

    def release(self) -> None:
        """Let another process have it; more than once changes nothing."""
        self._lock.release()
