"""The run that a worker is in while it lives: identity and settings, and the folder that keeps them.

Shell code: the folder is locked, files are read and written, and the host is asked.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path

from diloco.errors import JoinError
from diloco.settings import RunSettings
from diloco.swarm.handshake import knock_for_settings
from diloco.swarm.run_file import JOINED, KeptRun, keep_run, kept_run
from diloco.swarm.state_dir import load_identity
from diloco.swarm.state_lock import StateLock
from peers.admission.identity import Identity
from peers.admission.ticket import Ticket
from transport.errors import TransportError

_LOG = logging.getLogger("diloco")
KNOWN_S = 5.0
"""So long a worker that knows its run asks for the settings, before it looks for its host by itself."""


class JoinedRun:
    """Made by a worker, which closes it; a second process is refused its folder meanwhile."""

    def __init__(self, ticket: Ticket, name: str, home: Path | None, timeout_s: float) -> None:
        """Without a ``home`` nothing is kept. Raises `StateInUse` and what `knock_for_settings` does."""
        self._ticket, self._home = ticket, home
        self.answered = True
        """Whether the host was there at this start."""
        with ExitStack() as undone:
            if home is None:
                self.identity, self.incarnation = Identity.ephemeral(), int(time.time() * 1000)
            else:
                undone.callback(StateLock(home, "worker").release)
                self.identity, self.incarnation = load_identity(home)
            self.settings = self._ask(name, timeout_s)
            self.close = undone.pop_all().close

    def _ask(self, name: str, timeout_s: float) -> RunSettings:
        """The run's settings as its host has them, or as they were at this worker's last start: where the
        host is not there yet, or the ticket lets nobody new in."""
        found = kept_run(self._home, JOINED) if self._home else None
        kept = found.settings if found and found.run == self._ticket.run else None
        patience_s = min(timeout_s, KNOWN_S) if kept else timeout_s
        try:
            settings = knock_for_settings(self._ticket, self.identity, name, patience_s)
        except (TransportError, JoinError) as error:
            if kept is None or (isinstance(error, JoinError) and error.code != "expired"):
                raise
            _LOG.warning("%s; this worker was in the run before, and goes on looking for its host", error)
            self.answered = False
            return kept
        if self._home:
            keep_run(self._home, KeptRun(self._ticket.run, settings), JOINED)
        return settings
