"""Where a worker keeps what is its own: a folder by run and by name, and in it the run that it was in.

Shell code: it looks for folders, and decides nothing about runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from diloco.errors import StateInUse
from diloco.swarm.state_dir import default_state
from diloco.swarm.state_lock import StateLock

_MOST_WORKERS = 100


def worker_home(run: bytes, name: str, run_name: Callable[[], str], state: Path | None = None) -> Path:
    """The folder of a worker of that name in a run, in ``state`` or where all are by default. ``run_name``
    asks what the run is called, for the first worker of it on this machine."""
    state = state or default_state()
    mark = run.hex()[:8]
    known = sorted(state.glob(f"*-{mark}"))
    folder = known[0] if known else state / f"{run_name()}-{mark}"
    return folder / folder_name(name)


def folder_name(name: str) -> str:
    """A name that every file system takes; different for different names."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        return name
    mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)}-{mark}"


def free_name(home: Path, name: str) -> str:
    """A name for another worker on this machine, like that of the one in ``home``."""
    for number in range(2, _MOST_WORKERS):
        other = f"{name}-{number}"
        folder = home.parent / folder_name(other)
        if not folder.exists():
            return other
        try:
            StateLock(folder, "worker").release()
        except StateInUse:
            continue
        return other
    return f"{name}-{_MOST_WORKERS}"
