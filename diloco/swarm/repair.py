"""What can be done about a host's state that cannot be used any more as it is. A shell."""

from __future__ import annotations

from pathlib import Path

from diloco.settings import RunSettings
from diloco.swarm.state_dir import home_of, journal_of, load_identity, run_id_of
from diloco.swarm.state_lock import StateLock
from peers.coordinator.truncation import truncate


def truncate_journal(settings: RunSettings, state: Path | None, number: int) -> str:
    """Cut a run's journal off before the entry of that number, the first being 1, and say what that loses.
    The old file is kept. Raises `UserError`, also while a host lives there, or `JournalError`."""
    home = home_of(settings, state)
    lock = StateLock(home, "host")
    try:
        identity, _ = load_identity(home)
        return str(truncate(journal_of(home, run_id_of(identity)), number))
    finally:
        lock.release()
